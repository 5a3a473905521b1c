"""Disk space and memory of ten adapters on one base.

    python -m benchmarks.disk [BASE]

Slots are opened on the base once; ten packed files of different numbers run in them, one after
another, by kronq.Session.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import kronq
from benchmarks.exporting import BASE, memory
from benchmarks.sizes import ADAPTER
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float

COUNT = 10


def main(base: str = str(BASE)) -> None:
    if not Path(base).is_dir():
        print(f"Disk: no base at {base}; 'make demo' builds one")
        return
    adapter = kronq.load(ADAPTER)
    with tempfile.TemporaryDirectory(dir=Path(base).resolve().parent) as scratch:
        slots, packed, cache = (Path(scratch, name) for name in ("slots", "packed", "cache"))
        os.environ["KRONQ_CACHE"] = str(cache)
        kronq.export_onnx(adapter, base, slots, form="slots", verify=False)
        packed.mkdir()
        for seed in range(COUNT):
            kronq.save(
                kronq.quantize(_varied(adapter, seed), bits=4), packed / f"{seed}.safetensors"
            )
        print(f"{COUNT} packed adapters on {Path(base).name}, bytes of files:")
        for folder in (Path(base), slots, packed):
            _tell(folder)
        held = _run(slots, sorted(packed.iterdir()))
        print("after each of them has run:")
        _tell(cache)
        twice = _twice([*_files(Path(base)), *_files(slots), *_files(packed), *_files(cache)])
        print(f"  in two or more files of the same content, 1 kB or larger: {twice or 'nothing'}")
        print("memory that no file is behind, by adapters that have run: ", end="")
        print(", ".join(f"{n}: {held[n] / 1e6:,.1f} MB" for n in (1, 2, COUNT)))


def _run(slots: Path, files: list[Path]) -> dict[int, int]:
    """Returns the bytes beyond Python's own after so many adapters have run, all still loaded."""
    before, held = memory()["RssAnon"], {}
    session = kronq.Session(slots, device="cpu", threads=1)
    for number, file in enumerate(files, 1):
        session.load(file.stem, file)
        session.logits([1, 2, 3], adapter=file.stem)
        held[number] = memory()["RssAnon"] - before
    return held


def _varied(adapter: Adapter, seed: int) -> Adapter:
    """Returns the adapter with random numbers in B1."""
    rng = np.random.default_rng(seed)

    def other(delta: Delta) -> Delta:
        left, right = (matrix.float32() for matrix in delta.b.matrices)
        b = Product(Float(left * rng.uniform(0.5, 1, left.shape).astype(np.float32)), Float(right))
        return Delta(delta.a, b, delta.scale, delta.shape)

    return Adapter({name: other(delta) for name, delta in adapter.items()})


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _tell(folder: Path) -> None:
    files = _files(folder)
    sizes = [file.stat().st_size for file in files]
    largest = max(zip(sizes, files, strict=True))
    most = f"largest {largest[1].name}, {largest[0]:,}"
    print(f"  {folder.name + '/':<10} {sum(sizes):>13,} in {len(files):>2} files ({most})")


def _twice(files: Iterable[Path]) -> str:
    """Returns names and bytes of files that another file repeats."""
    seen: dict[bytes, Path] = {}
    found = []
    for file in files:
        if file.stat().st_size < 1000:
            continue
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        if digest in seen:
            found.append(f"{file.parent.name}/{file.name} ({file.stat().st_size:,})")
        seen.setdefault(digest, file)
    return ", ".join(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
