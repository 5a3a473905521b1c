"""Values of an adapter that a training goes on from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from kronq.errors import ArgumentError, StrPath
from kronq.model.adapter import Adapter
from kronq.readers.basis import extract_cores
from kronq.readers.load import load
from kronq.torch.adapted_model import adapted_layers, read_factors
from kronq.torch.core_linear import CoreLinear
from kronq.torch.training_gauge import to_training_gauge


def take_start(model: Any, start: StrPath | Adapter, base: StrPath) -> str:
    """Puts an adapter's values into the adapted layers of a model.

    Each layer keeps the factor of ΔW that it is trained with, and its factors get the norms that
    a new layer begins with (``to_training_gauge``).

    Args:
        model: A model with layers of ``adapt_linears``.
        start: The adapter, or its path.
        base: The base's folder, of whose weights LoRA-XS's bases are made.

    Returns:
        A digest of the values.

    Raises:
        ArgumentError: The adapter has other layers or shapes, or PEFT trains the model.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ArgumentError("a training that goes on is of kronq's own families, not PEFT's")
    adapter = start if isinstance(start, Adapter) else load(start)
    cores = any(isinstance(layer, CoreLinear) for layer in layers.values())
    if cores and adapter.bases is None:
        adapter = extract_cores(adapter, base)
    scaled = {
        name: to_training_gauge(delta, layers[name].delta()) if name in layers else delta
        for name, delta in adapter.items()
    }
    read_factors(model, replace(adapter, layers=scaled))
    values = hashlib.sha256()
    for layer in layers.values():
        for matrix in layer.delta().matrices:
            values.update(matrix.float32().tobytes())
    return values.hexdigest()
