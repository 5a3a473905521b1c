"""An adapter as a folder that ``PeftModel.from_pretrained`` loads: as it is, or as the exact LoRA.

Everything is computed in float64 from the normal form and written once, in ``dtype``; a quantized
adapter is dequantized on the way. The config names every layer by its full path, so nothing of the
base but those layers is touched.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize

from kronq.errors import ArgumentError, StrPath, check_choice
from kronq.io.files import check_apart, check_output, new_folder
from kronq.model.adapter import Adapter
from kronq.model.exact_lora import check_lora_size, exact_lora_factors
from kronq.readers.peft import PREFIX
from kronq.readers.peft_config import CONFIG, WEIGHTS
from kronq.writers.peft_lokr import lokr_layers

FORMS = ("peft", "lora")
DTYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, eq=False)
class PeftFolder:
    """What PEFT keeps in an adapter's folder.

    Attributes:
        config: ``adapter_config.json``.
        tensors: ``adapter_model.safetensors``.
    """

    config: dict[str, Any]
    tensors: dict[str, NDArray[Any]]


def convert(
    adapter: Adapter,
    out: StrPath,
    *,
    to: str,
    dtype: str = "fp32",
    base_model: str | None = None,
    force: bool = False,
) -> Path:
    """Writes ``adapter`` as a PEFT folder, whole or not at all.

    Args:
        adapter: What ``kronq.load`` gave.
        out: The folder to make.
        to: ``peft`` keeps the family (LoKr or LoRA); ``lora`` makes the exact LoRA.
        dtype: ``fp32``, ``fp16`` or ``bf16``: how the tensors are stored.
        base_model: The base's name for the config, instead of the one the adapter came with.
        force: Replaces an existing folder.

    Returns:
        The folder.

    Raises:
        UnsupportedError: PEFT's LoKr cannot hold these shapes, or the LoRA would be huge.
        OutputExistsError: Something is there and ``force`` is not set.
        KronqError: ``out`` is or holds what the adapter was read from.
    """
    check_choice("form", to, FORMS)
    check_apart(out, adapter.origin.path)
    check_output(out, force=force)
    build = to_peft if to == "peft" else to_lora
    folder = build(adapter, dtype=dtype, base_model=base_model)
    with new_folder(out, force=force) as work:
        text = json.dumps(folder.config, indent=2, sort_keys=True) + "\n"
        (work / CONFIG).write_text(text, encoding="utf-8")
        (work / WEIGHTS).write_bytes(serialize(folder.tensors, {"format": "pt"}))
    return Path(out)


def to_peft(adapter: Adapter, *, dtype: str = "fp32", base_model: str | None = None) -> PeftFolder:
    """The adapter in its own family: a LoKr for Kronecker factors, a LoRA for a LoRA.

    Raises:
        UnsupportedError: PEFT's LoKr, which derives every shape from one ``decompose_factor``,
            cannot hold some layers; all of them are named.
    """
    if adapter.family == "lora":
        return to_lora(adapter, dtype=dtype, base_model=base_model)
    _check(adapter, dtype)
    layout, layers = lokr_layers(adapter)
    tensors = {
        f"{PREFIX}{name}.{part}": _cast(array, dtype, name)
        for name, layer in layers.items()
        for part, array in layer.tensors.items()
    }
    ranks = {name: layer.rank for name, layer in layers.items()}
    scales = {name: layer.scale for name, layer in layers.items()}
    config = {
        **_config("LOKR", adapter, base_model),
        **_ranks_and_alphas("alpha", ranks, scales),
        "decompose_both": layout.decompose_both,
        "decompose_factor": layout.decompose_factor,
        "init_weights": True,
        "module_dropout": 0.0,
        "rank_dropout": 0.0,
        "use_effective_conv2d": False,
    }
    return PeftFolder(config, tensors)


def to_lora(adapter: Adapter, *, dtype: str = "fp32", base_model: str | None = None) -> PeftFolder:
    """The exact LoRA: of rank rank(A)·r, with no truncation.

    Raises:
        UnsupportedError: It would be huge, as that of whole factors can be.
    """
    _check(adapter, dtype)
    check_lora_size(adapter)
    tensors, ranks = {}, {}
    for name, delta in adapter.items():
        up, down = exact_lora_factors(delta)
        ranks[name] = up.shape[1]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = _cast(down, dtype, name)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = _cast(up, dtype, name)
    scales = {name: abs(delta.scale) for name, delta in adapter.items()}
    config = {
        **_config("LORA", adapter, base_model),
        **_ranks_and_alphas("lora_alpha", ranks, scales),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "use_dora": False,
        "use_rslora": False,
    }
    return PeftFolder(config, tensors)


def _config(kind: str, adapter: Adapter, base_model: str | None) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "task_type": _task_type(adapter),
        "base_model_name_or_path": base_model or adapter.origin.base_model,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": list(adapter),
    }


def _task_type(adapter: Adapter) -> str | None:
    """That of the PEFT folder it came from; PEFT loads an adapter without one just as well."""
    origin = adapter.origin
    if origin.format != "peft" or origin.path is None:
        return None
    folder = origin.path if origin.path.is_dir() else origin.path.parent
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    task = config.get("task_type")
    return task if isinstance(task, str) else None


def _ranks_and_alphas(
    alpha: str, ranks: Mapping[str, int], scales: Mapping[str, float]
) -> dict[str, Any]:
    """PEFT's scale is α / r: the most common rank and α, and patterns for layers that differ."""
    alphas = {name: _alpha(scales[name], rank) for name, rank in ranks.items()}
    rank, common = _most_common(ranks.values()), _most_common(alphas.values())
    return {
        "r": rank,
        alpha: common,
        "rank_pattern": {_exactly(n): r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {_exactly(n): a for n, a in alphas.items() if a != common},
    }


def _exactly(name: str) -> str:
    """PEFT matches the end of a path against a pattern, unless the pattern begins with ``^``."""
    return "^" + re.escape(name)


def _alpha(scale: float, rank: int) -> float:
    """α such that α / rank is the scale, a whole number where one is exact."""
    alpha = scale * rank
    return round(alpha) if round(alpha) / rank == scale else alpha


def _most_common(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _check(adapter: Adapter, dtype: str) -> None:
    check_choice("dtype", dtype, DTYPES)
    for name, delta in adapter.items():
        if not all(np.isfinite(m.float32()).all() for m in delta.matrices):
            raise ArgumentError("the layer has values that are not finite", layer=name)


def _cast(array: NDArray[np.float64], dtype: str, layer: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array.astype(DTYPES[dtype]))
    if not np.isfinite(cast.astype(np.float32)).all():
        raise ArgumentError(
            f"values are too large for {dtype}",
            layer=layer,
            found=f"{np.abs(array).max():.3g}",
            hint="{dtype=fp32} or bf16",
        )
    return cast
