"""The adapters of a study: as trained, as they are quantized, and what they take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kronq.io.safetensors_file import open_tensors
from kronq.io.tensor_writer import tensor_bytes
from kronq.model.adapter import Adapter
from kronq.packed import pack_adapter
from kronq.readers.basis import extract_cores
from kronq.readers.load import load
from kronq.readers.peft_tuners import TUNERS
from kronq.report.comparison_models import Baseline
from kronq.study.family import PEFT
from kronq.study.published import Needs
from kronq.study.sources import Base, TaskExamples, TextSource
from kronq.study.steps import Chain
from kronq.study.store import Store


@dataclass(frozen=True)
class Bench:
    """What all chains of a study work with.

    Attributes:
        store: Where results are kept.
        base: The base.
        tasks: Label → examples.
        dtype: Of adapters as trained.
        baselines: Name → baseline.
        texts: Label → text.
        needs: What has to be made.
    """

    store: Store
    base: Base
    tasks: Mapping[str, TaskExamples]
    dtype: str
    baselines: Mapping[str, Baseline]
    texts: Mapping[str, TextSource] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)


def size_facts(bench: Bench, chain: Chain) -> dict[str, Any]:
    """Returns the size of an adapter as trained, and of what its receiver makes or has.

    The size is that of its file; of LoRA-XS it is R alone, and of PEFT's families the numbers that
    are trained.
    """
    folder = bench.store.trained_adapter(chain.key)
    if family_of(chain) in PEFT:
        return _peft_facts(folder)
    adapter = to_quantize(bench, chain)
    if adapter.bases is not None:
        nbytes = len(pack_adapter(adapter))
    else:
        files = [folder] if folder.is_file() else [*folder.glob("adapter_model.*")]
        nbytes = sum(file.stat().st_size for file in files)
    return {
        "bytes": nbytes,
        "parameters": adapter.parameters,
        "shared_bytes": bytes_of_bases(adapter),
    }


def _peft_facts(folder: Path) -> dict[str, Any]:
    from kronq.torch.training.peft_families import PEFT_FAMILIES

    told = json.loads((folder / "train.json").read_text("utf-8"))
    family = PEFT_FAMILIES[told["settings"]["shape"]["family"]]
    path = folder / "adapter_model.safetensors"
    file, nbytes = open_tensors(path), path.stat().st_size
    names = [n for n in file.entries if not any(part in n for part in family.frozen)]
    if len(names) < len(file.entries):
        nbytes = sum(map(len, tensor_bytes({name: file.array(name) for name in names}, {})))
    return {
        "bytes": nbytes,
        "parameters": told["parameters"],
        "shared_bytes": 2 * told["receiver"]["numbers"],
        "shared": told["receiver"]["makes"],
    }


def bytes_of_bases(adapter: Adapter) -> int:
    """Returns the bytes in float16 of frozen bases, which a receiver makes again or has once."""
    if adapter.bases is None:
        return 0
    shapes = {name: basis.shape for name, basis in adapter.bases.layers.items()}
    return sum(2 * adapter[name].rank * sum(shape) for name, shape in shapes.items())


def family_of(chain: Chain) -> str:
    """Returns the family of a chain's adapter."""
    assert chain.settings is not None  # noqa: S101
    return chain.settings.shape.family


def to_quantize(bench: Bench, chain: Chain) -> Adapter:
    """Returns the adapter that is quantized: as trained, or of LoRA-XS R alone.

    Raises:
        UnsupportedError: kronq does not read the family.
    """
    weights = bench.base.hf if family_of(chain) in PEFT else None
    adapter = load(bench.store.trained_adapter(chain.key), base_weights=weights)
    return extract_cores(adapter, bench.base.hf) if family_of(chain) == "lora-xs" else adapter


def to_score(bench: Bench, chain: Chain, source: str) -> Adapter | None:
    """Returns the adapter of a score: None for the base, as trained, or of a file.

    What PEFT trained is read by kronq, or, where it cannot, as what PEFT adds to each layer.
    """
    if source == "base":
        return None
    family, folder = family_of(chain), bench.store.trained_adapter(chain.key)
    if source != "trained":
        basis = bench.base.hf if family == "lora-xs" else None
        return load(bench.store.file(source), basis=basis)
    if family not in PEFT:
        return load(folder)
    if family.upper() in TUNERS:
        return load(folder, base_weights=bench.base.hf)
    from kronq.torch.training.peft_tuner import read_tuned

    return read_tuned(folder, bench.base.hf)


def start_of(bench: Bench, chain: Chain) -> Path | None:
    """Returns the adapter that a training goes on from, or None."""
    if chain.start is None:
        return None
    file = bench.store.file(chain.start.key)
    return file if chain.start.setting else bench.store.trained_adapter(chain.start.key)
