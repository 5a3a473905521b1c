"""Adapters of gigabytes: seconds and peak memory of each verb that reads one.

    python -m benchmarks.streams FOLDER [GIGABYTES] [METHOD …]

A rank-128 LoRA of 3072×3072 layers and a LoKr of whole factors (A 4×4, B 768×768), both in bfloat16
and of so many bytes, 4 GB if not given; quantized with rtn where no method is given. FOLDER gets
them, with room for six times as much, and is emptied of each. CPU time counts all threads.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from benchmarks.large import run_verb
from kronq.io.tensor_writer import TensorParts, tensor_bytes

SIDE, RANK, BLOCK = 3072, 128, 768
BF16 = np.dtype(ml_dtypes.bfloat16)


def main(folder: str, gigabytes: str = "4", *methods: str) -> None:
    size = int(float(gigabytes) * 1e9)
    for kind, parts in (("LORA", _lora), ("LOKR", _lokr)):
        source, small = Path(folder, kind), Path(folder, f"{kind}.safetensors")
        _write(source, kind, parts, size)
        print(f"{kind}, {_bytes(source):,} bytes", flush=True)
        _show("inspect", source)
        _show("convert to fp16", "convert", source, "--to", "peft", "--dtype", "fp16")
        for method in methods or ("rtn",):
            settings = ["--method", method, "--bits", "4"]
            _show(f"quantize {method}", "quantize", source, "-o", small, *settings, "--force")
            _show("inspect --verify", "inspect", small, "--verify")
            _show("convert from it", "convert", small, "--to", "peft", "--dtype", "fp16")
            small.unlink()
        shutil.rmtree(source)


def _show(title: str, *arguments: object) -> None:
    verb, path, *options = arguments if len(arguments) > 1 else (title, *arguments)
    out = Path(str(path)).with_name("out")
    if verb == "convert":
        options += ["-o", out, "--force"]
    print(f"  {title}: {run_verb(verb, path, *options)}", flush=True)
    if out.exists():
        print(f"    {_bytes(out):,} bytes")
        shutil.rmtree(out)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _write(folder: Path, kind: str, parts: Callable[[str], Any], size: int) -> None:
    """Writes a PEFT folder of at least so many bytes."""
    folder.mkdir(parents=True)
    tensors: dict[str, TensorParts] = {}
    count = total = 0
    while total < size:
        added = parts(f"base_model.model.model.layers.{count}.self_attn.q_proj")
        tensors |= added
        total += sum(tensor.nbytes for tensor in added.values())
        count += 1
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.writelines(tensor_bytes(tensors, {"format": "pt"}))
    alpha = {"lora_alpha": RANK} if kind == "LORA" else {"alpha": SIDE, "decompose_factor": 4}
    rank = RANK if kind == "LORA" else SIDE
    config = {"peft_type": kind, "r": rank, "target_modules": ["q_proj"], **alpha}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _lora(name: str) -> dict[str, TensorParts]:
    return {
        f"{name}.lora_A.weight": _random((RANK, SIDE)),
        f"{name}.lora_B.weight": _random((SIDE, RANK)),
    }


def _lokr(name: str) -> dict[str, TensorParts]:
    return {f"{name}.lokr_w1": _random((4, 4)), f"{name}.lokr_w2": _random((BLOCK, BLOCK))}


def _random(shape: tuple[int, int]) -> TensorParts:
    def make() -> Iterator[NDArray[Any]]:
        yield (0.02 * np.random.default_rng(shape).standard_normal(shape, np.float32)).astype(BF16)

    return TensorParts(BF16, shape, make)


if __name__ == "__main__":
    main(*sys.argv[1:])
