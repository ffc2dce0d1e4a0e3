#!/usr/bin/env python3
"""Makes goldens.bin: seeded random blocks and what the PyPI package gguf (0.19) decodes them to.

    pip install gguf==0.19.0 && python make.py

The file is a sequence of: u8 length, name; u32 length, raw blocks; u32 count, f32 values. Little-endian.
"""

import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# name: (type, blocks, byte offsets of f16 scales)
FORMATS = {
    "f32": (T.F32, 64, []), "f16": (T.F16, 64, [0]), "bf16": (T.BF16, 64, []),
    "q4_0": (T.Q4_0, 24, [0]), "q4_1": (T.Q4_1, 24, [0, 2]), "q5_0": (T.Q5_0, 24, [0]), "q5_1": (T.Q5_1, 24, [0, 2]),
    "q8_0": (T.Q8_0, 24, [0]), "q2_k": (T.Q2_K, 9, [80, 82]), "q3_k": (T.Q3_K, 9, [108]), "q4_k": (T.Q4_K, 9, [0, 2]),
    "q5_k": (T.Q5_K, 9, [0, 2]), "q6_k": (T.Q6_K, 9, [208]), "iq4_nl": (T.IQ4_NL, 24, [0]), "mxfp4": (T.MXFP4, 24, []),
}
# 0, -0, smallest and largest subnormal, smallest normal, largest, -largest
EDGES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF]

rng = np.random.default_rng(20240229)
out = bytearray()
for name, (ty, blocks, scales) in FORMATS.items():
    size = GGML_QUANT_SIZES[ty][1]
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    for at in scales:
        d = rng.integers(0, 0x7C00, blocks, dtype=np.uint16) | (rng.integers(0, 2, blocks, dtype=np.uint16) << 15)
        d[: len(EDGES)] = rng.permutation(EDGES)
        raw[:, at : at + 2] = d.reshape(-1, 1).view(np.uint8)
    if name == "mxfp4":
        raw[:6, 0] = [0, 1, 2, 127, 254, 255]
    if name in ("f32", "bf16"):
        raw[:, -1] &= 0xBF  # no infinities or NaN
    with np.errstate(over="ignore"):
        values = dequantize(raw.reshape(1, -1), ty).astype("<f4").reshape(-1)
    assert not np.isnan(values).any(), name
    out += struct.pack("<B", len(name)) + name.encode()
    out += struct.pack("<I", raw.size) + raw.tobytes() + struct.pack("<I", values.size) + values.tobytes()
path = pathlib.Path(__file__).with_name("goldens.bin")
path.write_bytes(out)
print(path.name, len(out), "bytes")
