"""PEFT folders, which ``PeftModel.from_pretrained`` loads: the same factors, or the exact LoRA.

Tensors are computed in float64 and rounded once, to ``dtype``; a quantized adapter is dequantized.
The config names every layer by its full path, so no other layer of the base is adapted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import UnsupportedError, check_choice, listing
from kronq.io.tensor_writer import Tensor, tensor_bytes
from kronq.model.adapter import Adapter, check_finite
from kronq.model.plain import refuse_carried, refuse_cores, refuse_magnitudes
from kronq.readers.peft_config import CONFIG, WEIGHTS
from kronq.readers.peft_names import PREFIX
from kronq.writers.balance import balance_quantized
from kronq.writers.contents import Contents, Request
from kronq.writers.diffusers_metadata import diffusers_metadata
from kronq.writers.forms import DTYPES
from kronq.writers.lokr_layout import lokr_layers
from kronq.writers.lora_factors import alpha_of, lora_layers
from kronq.writers.model_card import CARD, model_card
from kronq.writers.module_paths import encoder_alone, refuse_unknown_paths
from kronq.writers.peft_carried import carried_parts
from kronq.writers.peft_config import common_settings, ranks_and_alphas


@dataclass(frozen=True, eq=False)
class PeftFolder(Contents):
    """Contents of an adapter's folder; the tensors are those of ``adapter_model.safetensors``.

    Attributes:
        config: ``adapter_config.json``.
        card: ``README.md``.
    """

    config: dict[str, Any]
    card: str = ""


def build(adapter: Adapter, request: Request) -> PeftFolder:
    """Builds the folder of ``--to peft`` or ``--to lora``."""
    build = to_peft if request.to == "peft" else to_lora
    adapter = encoder_alone(adapter)
    settings, carried = carried_parts(adapter)
    deltas = replace(adapter, carried={})
    folder = build(deltas, dtype=request.dtype, base_model=request.base_model)
    folder = replace(folder, config=folder.config | settings, tensors={**folder.tensors, **carried})
    return replace(folder, card=_card(adapter, folder, request.title))


def write(contents: PeftFolder, work: Path) -> None:
    """Writes the files into a folder."""
    text = json.dumps(contents.config, indent=2, sort_keys=True) + "\n"
    (work / CONFIG).write_text(text, encoding="utf-8")
    with (work / WEIGHTS).open("wb") as file:
        metadata = diffusers_metadata((contents.config, PREFIX))
        file.writelines(tensor_bytes(contents.tensors, metadata))
    (work / CARD).write_text(contents.card, "utf-8")


def _card(adapter: Adapter, folder: PeftFolder, title: str) -> str:
    """Returns the model card: the figures are those of the file that the adapter comes from."""
    base = folder.config["base_model_name_or_path"]
    return model_card(adapter, title, library="peft", family=folder.family, base_model=base)


def to_peft(adapter: Adapter, *, dtype: str = "fp32", base_model: str | None = None) -> PeftFolder:
    """Builds the adapter in its own family: LoKr for Kronecker factors, LoRA for LoRA.

    Raises:
        UnsupportedError: PEFT's LoKr, which derives every shape from one ``decompose_factor``,
            cannot hold some layers; all of them are named.
    """
    if adapter.family == "lora":
        return to_lora(adapter, dtype=dtype, base_model=base_model)
    _check(adapter, dtype)
    rows = all(d.magnitude is not None and d.magnitude.shape[1] == 1 for d in adapter.values())
    hint = "{to=lycoris} keeps them" + (", {to=lora} too" if rows else "")
    refuse_magnitudes(adapter, "PEFT's LoKr", hint)
    adapter = balance_quantized(adapter)
    layout, layers = lokr_layers(adapter)
    tensors = {
        f"{PREFIX}{name}.{part}": values.tensor(dtype, name)
        for name, layer in layers.items()
        for part, values in layer.tensors.items()
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
    return PeftFolder("kron", ranks, tensors, config)


def to_lora(adapter: Adapter, *, dtype: str = "fp32", base_model: str | None = None) -> PeftFolder:
    """Builds the exact LoRA, of rank rank(A)·r, without truncation.

    Raises:
        UnsupportedError: It would be huge, as that of whole factors can be.
    """
    _check(adapter, dtype)
    magnitudes = _magnitudes(adapter)
    layers = lora_layers(adapter)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        up, down = layer.tensors()
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down.tensor(dtype, name)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up.tensor(dtype, name)
        if magnitudes:
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = magnitudes[name]
    ranks = {name: layer.rank for name, layer in layers.items()}
    alphas = {name: layer.alpha for name, layer in layers.items()}
    config = {
        **common_settings("LORA", adapter, base_model),
        **ranks_and_alphas("lora_alpha", ranks, alphas),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "use_dora": bool(magnitudes),
        "use_rslora": False,
    }
    return PeftFolder("lora", ranks, tensors, config)


def _magnitudes(adapter: Adapter) -> dict[str, NDArray[Any]]:
    """Returns DoRA's magnitudes as PEFT stores them; PEFT has them for all layers or for none.

    Raises:
        UnsupportedError: Some layers have none, or one of their inputs.
    """
    found, without = {}, []
    for name, delta in adapter.items():
        if delta.magnitude is None or delta.magnitude.shape != (delta.shape[0], 1):
            without.append(name)
            continue
        shape = (1, -1, *[1] * len(delta.kernel)) if delta.kernel else (-1,)
        found[name] = np.ascontiguousarray(delta.magnitude.array).reshape(shape)
    if without and any(delta.magnitude is not None for delta in adapter.values()):
        raise UnsupportedError(
            "PEFT's DoRA has a magnitude for every row of every layer",
            path=adapter.origin.path,
            found=listing(without),
            hint="{to=lycoris} keeps any",
        )
    return found


def _check(adapter: Adapter, dtype: str) -> None:
    check_choice("dtype", dtype, DTYPES)
    check_finite(adapter)
    refuse_cores(adapter, "a PEFT folder of kronq's")
    refuse_carried(adapter, "a PEFT folder of kronq's")
    refuse_unknown_paths(adapter)
