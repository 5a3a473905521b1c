"""LoRA-XS's own folder: frozen lora_A and lora_B, R between them, and its settings beside it.

Its code calls R ``q_proj_lora_latent_mapping`` in a file; one of PEFT 0.21 on,
``q_proj.default_lora_latent_mapping``, is read by kronq too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.cores.fold import find_frames
from kronq.cores.sources import BasisSource
from kronq.errors import ArgumentError, UnsupportedError
from kronq.io.overflow import Overflow
from kronq.io.tensor_writer import Tensor, TensorParts, tensor_bytes
from kronq.model.adapter import Adapter
from kronq.model.plain import refuse_all_but_deltas
from kronq.readers.basis import open_basis
from kronq.readers.peft_config import CONFIG, WEIGHTS
from kronq.readers.peft_names import PREFIX
from kronq.readers.peft_tuners.lora_xs import RECONSTRUCTION, read_settings
from kronq.writers.contents import Contents, Request, cast
from kronq.writers.peft_config import common_settings


@dataclass(frozen=True, eq=False)
class LoraXsFolder(Contents):
    """Contents of LoRA-XS's folder.

    Attributes:
        config: ``adapter_config.json``.
        settings: ``reconstr_config.json``.
    """

    config: dict[str, Any]
    settings: dict[str, Any]


def build(adapter: Adapter, request: Request) -> LoraXsFolder:
    """Builds the folder that LoRA-XS's own code loads.

    Raises:
        ArgumentError: The adapter has its bases, or there is no basis.
        MismatchError: The basis has other bases.
        UnsupportedError: Layers differ in rank.
    """
    if adapter.bases is None or len(adapter.bases.layers) < len(adapter):
        raise ArgumentError(
            "LoRA-XS's layout is for R alone",
            path=adapter.origin.path,
            expected="a file that 'kronq quantize --basis' wrote, all of whose layers are R",
            hint="{to=peft} writes a LoRA",
        )
    if request.basis is None:
        raise ArgumentError(
            "LoRA-XS's layout has the frozen bases too", hint="{basis} tells where they are"
        )
    refuse_all_but_deltas(adapter, "LoRA-XS's layout")
    source = open_basis(request.basis, adapter.bases.recipe)
    config = _config(adapter, request.base_model)
    ranks = {name: delta.rank for name, delta in adapter.items()}
    tensors = _tensors(adapter, source, request.dtype)
    return LoraXsFolder("lora", ranks, tensors, config, _settings(adapter, source))


def write(contents: LoraXsFolder, work: Path) -> None:
    """Writes the files into a folder."""
    _write_json(work / CONFIG, contents.config)
    _write_json(work / RECONSTRUCTION, contents.settings)
    with (work / WEIGHTS).open("wb") as stream:
        stream.writelines(tensor_bytes(contents.tensors, {"format": "pt"}))


def _tensors(adapter: Adapter, source: BasisSource, dtype: str) -> dict[str, Tensor]:
    """Returns the tensors, each made once: all bases are compared before anything is written."""
    tensors: dict[str, Tensor] = {}
    overflow = Overflow()
    for name, _, frame in find_frames(adapter, source):
        core = adapter[name]
        mapping = frame.mapping(core.b.float64() * core.scale)
        for key, array in (
            (f"{name}.lora_A.weight", frame.a),
            (f"{name}.lora_B.weight", frame.b),
            (f"{name}_lora_latent_mapping.weight", mapping),
        ):
            tensors[PREFIX + key] = _held(cast(array, dtype, name), overflow)
    return tensors


def _held(array: NDArray[Any], overflow: Overflow) -> Tensor:
    """Returns the tensor in memory, or in a file if there are too many."""
    held = overflow.hold(array)
    if isinstance(held, np.ndarray):
        return held
    return TensorParts(array.dtype, array.shape, lambda: [np.asarray(held)])


def _config(adapter: Adapter, base_model: str | None) -> dict[str, Any]:
    ranks = sorted({delta.rank for delta in adapter.values()})
    if len(ranks) > 1:
        raise UnsupportedError(
            "LoRA-XS has one rank for all layers", path=adapter.origin.path, found=ranks
        )
    return {
        **common_settings("LORA", adapter, base_model),
        "r": ranks[0],
        "lora_alpha": ranks[0],  # the scale is in R
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
    }


def _settings(adapter: Adapter, source: BasisSource) -> dict[str, Any]:
    """Returns the settings that LoRA-XS's code keeps: those beside the bases, or by the recipe."""
    assert adapter.bases is not None  # noqa: S101
    recipe = adapter.bases.recipe
    beside = read_settings(source.path) if recipe is None and source.path.is_dir() else None
    if beside is not None:
        return beside
    settings: dict[str, Any] = {
        "reconstruction_type": "svd",
        "reconstr_mode": "separated",
        "half_init_dec": False,
        "replacement_module_random_init": recipe is None,
        "r_squared": True,
    }
    if recipe is not None:
        rank = next(iter(adapter.values())).rank
        settings["svd"] = {"rank": rank, "n_iter": recipe.n_iter, "random_state": recipe.seed}
    return settings


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
