"""A model with a tuner of PEFT in it: made, written, and read back as ΔW."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kronq.errors import ArgumentError, StrPath, UnsupportedError
from kronq.io.extras import require
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.torch.adapted_model import find_linears
from kronq.torch.training.peft_families import PEFT_FAMILIES, PeftShape

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_EXACT = "logits"
"""In the names of tensors that stay float32: VB-LoRA's weights sum to 1."""
_LONGEST = 256
"""PEFT's default of VB-LoRA's vector length."""


def tune_with_peft(
    model: Any, shape: PeftShape, *, only: str | None = None, dropout: float = 0.0
) -> Any:
    """Puts a tuner of PEFT into a model, which is frozen otherwise.

    Args:
        model: A causal language model of transformers.
        shape: The family, and fields of its configuration.
        only: As of ``adapt_linears``.
        dropout: Probability that an entry of an adapter's input is left out.

    Returns:
        PEFT's model around it.

    Raises:
        ArgumentError: PEFT does not take these fields, or no layer is meant.
        MissingDependencyError: PEFT is not installed.
    """
    require("train", "training")
    import peft

    family, linears = PEFT_FAMILIES[shape.family], find_linears(model, only)
    given = {**shape.fields, "target_modules": [*linears], "task_type": "CAUSAL_LM"}
    if dropout:
        if family.dropout is None:
            raise ArgumentError(f"{shape.family} has no dropout", found=dropout)
        given[family.dropout] = dropout
    if shape.family == "vblora" and "vector_length" not in given:
        given["vector_length"] = _common_length(linears)
    kind = getattr(peft, family.config)
    known = {f.name for f in fields(kind)}
    if unknown := sorted({*given} - known):
        raise ArgumentError(
            f"{shape.family} has no such setting",
            found=unknown[0],
            expected=f"a field of peft.{family.config}",
        )
    try:
        with _quiet():
            return peft.get_peft_model(model, kind(**given))
    except (TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ArgumentError(f"PEFT refuses these settings of {shape.family}: {told}") from error


def write_tuned(model: Any, folder: Path, dtype: str) -> None:
    """Writes PEFT's own folder, the trained numbers in ``dtype``."""
    every = model.named_parameters(remove_duplicate=False)  # a bank is in each layer, too
    trained = {name for name, parameter in every if parameter.requires_grad}
    state = model.state_dict()
    for name in state.keys() & trained:
        if _EXACT not in name:
            state[name] = state[name].to(_DTYPES[dtype])
    with _quiet():
        model.save_pretrained(folder, state_dict=state)


def read_tuned(folder: StrPath, base: StrPath) -> Adapter:
    """Returns what PEFT adds to each layer: its factors, or all of ΔW where it has none.

    Args:
        folder: PEFT's, of a family of ``PEFT_FAMILIES``.
        base: The base's Hugging Face folder.

    Raises:
        UnsupportedError: The layers have another form.
    """
    require("train", "reading PEFT's tuners")
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with _quiet(), torch.no_grad():
        tuned = peft.PeftModel.from_pretrained(model, folder)
        return Adapter({name: _delta(layer) for name, layer in tuner_layers(tuned).items()})


def tuner_layers(model: Any) -> dict[str, Any]:
    """Returns the layers that PEFT tunes by their names in the base."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    inner = model.get_base_model()
    return {name: m for name, m in inner.named_modules() if isinstance(m, BaseTunerLayer)}


def count_trained(model: nn.Module) -> int:
    """Returns how many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def frozen_numbers(model: Any) -> int:
    """Returns how many numbers of the tuner are not trained, equal tensors counted once."""
    seen: dict[str, int] = {}
    for layer in tuner_layers(model).values():
        for name in layer.other_param_names:
            held: Any = getattr(layer, name, None)
            for tensor in held.values() if hasattr(held, "values") else ():
                if isinstance(tensor, Tensor):
                    data = tensor.detach().cpu().contiguous().numpy()
                    key = f"{name} {data.shape} {hashlib.sha256(data).hexdigest()}"
                    seen[key] = data.size
    return sum(seen.values())


def _delta(layer: Any) -> Delta:
    name = layer.active_adapters[0]
    if hasattr(layer, "_get_lora_matrices"):
        a, b = layer._get_lora_matrices(name)
        return Delta.uncropped(ONE, Product(_float(b), _float(a)), 1.0)
    delta = layer.get_delta_weight(name)
    if delta.ndim != 2:
        raise UnsupportedError("PEFT adds no matrix to a layer", found=tuple(delta.shape))
    return Delta.uncropped(ONE, Product(_float(delta)), 1.0)


def _float(tensor: Tensor) -> Float:
    values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return Float(np.array(values))


def _common_length(linears: dict[str, nn.Linear]) -> int:
    """Returns the longest vector that all layers' sizes are multiples of, up to PEFT's default."""
    sizes = [size for each in linears.values() for size in (each.in_features, each.out_features)]
    common = reduce(math.gcd, sizes)
    return max(n for n in range(1, min(_LONGEST, common) + 1) if common % n == 0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps PEFT from warning of seeds, which is what is asked of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
