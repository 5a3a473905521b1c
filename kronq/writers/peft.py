"""PEFT folders, which ``PeftModel.from_pretrained`` loads: the same factors, or the exact LoRA.

Tensors are computed in float64 and rounded once, to ``dtype``; a quantized adapter is dequantized.
The config names every layer by its full path, so no other layer of the base is adapted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # numpy's bfloat16
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize

from kronq.errors import ArgumentError, StrPath, check_choice, check_type
from kronq.io.blas import small_matrices
from kronq.io.files import check_apart, check_output, new_folder
from kronq.model.adapter import Adapter, check_finite
from kronq.model.delta import F64
from kronq.model.exact_lora import check_lora_size, exact_lora_factors
from kronq.model.plain import refuse_all_but_deltas
from kronq.readers.peft_config import CONFIG, WEIGHTS
from kronq.readers.peft_names import PREFIX
from kronq.writers.balance import balance_quantized
from kronq.writers.forms import DTYPES, FORMS
from kronq.writers.lokr_layout import lokr_layers
from kronq.writers.model_card import CARD, model_card
from kronq.writers.module_paths import refuse_unknown_paths, restore_paths
from kronq.writers.peft_config import alpha_of, common_settings, most_common, ranks_and_alphas


@dataclass(frozen=True, eq=False)
class PeftFolder:
    """Contents of an adapter's folder.

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
    """Writes an adapter as a PEFT folder, which is complete or absent.

    Args:
        adapter: Trained or quantized.
        out: Folder to write.
        to: ``peft`` keeps the family (LoKr or LoRA); ``lora`` writes the exact LoRA.
        dtype: Of the tensors: ``fp32``, ``fp16`` or ``bf16``.
        base_model: Name of the base for the config; that of the adapter's origin if None. A folder
            with its safetensors files also tells the module paths of flattened names.
        force: Replaces an existing folder.

    Returns:
        The folder.

    Raises:
        UnsupportedError: PEFT's LoKr cannot hold these shapes, the LoRA would be huge, or names
            are flattened and the base's are not known.
        MismatchError: Flattened names are not those of the base.
        OutputExistsError: ``out`` exists and ``force`` is not set.
        ArgumentError: ``out`` is or holds what the adapter was read from, or values overflow.
    """
    check_choice("form", to, FORMS)
    check_type("adapter", adapter, Adapter)
    check_type("out", out, str, os.PathLike)
    if base_model is not None:
        check_type("base_model", base_model, str)
    check_apart(out, adapter.origin.path)
    check_output(out, force=force)
    build = to_peft if to == "peft" else to_lora
    adapter = restore_paths(adapter, base_model)
    folder = build(adapter, dtype=dtype, base_model=base_model)
    with new_folder(out, "convert", force=force) as work:
        text = json.dumps(folder.config, indent=2, sort_keys=True) + "\n"
        (work / CONFIG).write_text(text, encoding="utf-8")
        (work / WEIGHTS).write_bytes(serialize(folder.tensors, {"format": "pt"}))
        (work / CARD).write_text(_card(adapter, folder, Path(out).resolve().name), "utf-8")
    return Path(out)


def _card(adapter: Adapter, folder: PeftFolder, title: str) -> str:
    """Returns the model card: the figures are those of the file that the adapter comes from."""
    base = folder.config["base_model_name_or_path"]
    family = "lora" if folder.config["peft_type"] == "LORA" else "kron"
    return model_card(adapter, title, library="peft", family=family, base_model=base)


@small_matrices()
def to_peft(adapter: Adapter, *, dtype: str = "fp32", base_model: str | None = None) -> PeftFolder:
    """Builds the adapter in its own family: LoKr for Kronecker factors, LoRA for LoRA.

    Raises:
        UnsupportedError: PEFT's LoKr, which derives every shape from one ``decompose_factor``,
            cannot hold some layers; all of them are named.
    """
    if adapter.family == "lora":
        return to_lora(adapter, dtype=dtype, base_model=base_model)
    _check(adapter, dtype)
    adapter = balance_quantized(adapter)
    layout, layers = lokr_layers(adapter)
    tensors = {
        f"{PREFIX}{name}.{part}": _cast(array, dtype, name)
        for name, layer in layers.items()
        for part, array in layer.tensors.items()
    }
    ranks = {name: layer.rank for name, layer in layers.items()}
    alphas = {name: alpha_of(layer.scale, layer.rank) for name, layer in layers.items()}
    config = {
        **common_settings("LOKR", adapter, base_model),
        **ranks_and_alphas("alpha", ranks, alphas),
        "decompose_both": layout.decompose_both,
        "decompose_factor": layout.decompose_factor,
        "init_weights": True,
        "module_dropout": 0.0,
        "rank_dropout": 0.0,
        "use_effective_conv2d": False,
    }
    return PeftFolder(config, tensors)


@small_matrices()
def to_lora(adapter: Adapter, *, dtype: str = "fp32", base_model: str | None = None) -> PeftFolder:
    """Builds the exact LoRA, of rank rank(A)·r, without truncation.

    Raises:
        UnsupportedError: It would be huge, as that of whole factors can be.
    """
    _check(adapter, dtype)
    check_lora_size(adapter)
    adapter = balance_quantized(adapter)
    factors = {name: exact_lora_factors(delta) for name, delta in adapter.items()}
    ranks = {name: up.shape[1] for name, (up, _) in factors.items()}
    alphas = {name: alpha_of(abs(adapter[name].scale), rank) for name, rank in ranks.items()}
    if adapter.family == "kron" or adapter.recipe is not None:
        factors, alphas = _fold_alphas(factors, alphas)
    tensors = {}
    for name, (up, down) in factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = _cast(down, dtype, name)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = _cast(up, dtype, name)
    config = {
        **common_settings("LORA", adapter, base_model),
        **ranks_and_alphas("lora_alpha", ranks, alphas),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "use_dora": False,
        "use_rslora": False,
    }
    return PeftFolder(config, tensors)


def _fold_alphas(
    factors: dict[str, tuple[F64, F64]], alphas: dict[str, float]
) -> tuple[dict[str, tuple[F64, F64]], dict[str, float]]:
    """Gives all layers one α, half of the rest in each factor: many loaders know no patterns."""
    alpha = max((most_common(alphas.values()), *alphas.values()), key=bool)
    if not alpha:
        return factors, alphas
    roots = {name: (each / alpha) ** 0.5 for name, each in alphas.items()}
    folded = {
        name: pair if roots[name] == 1 else (pair[0] * roots[name], pair[1] * roots[name])
        for name, pair in factors.items()
    }
    return folded, dict.fromkeys(alphas, alpha)


def _check(adapter: Adapter, dtype: str) -> None:
    check_choice("dtype", dtype, DTYPES)
    check_finite(adapter)
    refuse_all_but_deltas(adapter, "a PEFT folder of kronq's")
    refuse_unknown_paths(adapter)


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
