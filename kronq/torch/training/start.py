"""Values of an adapter that a training goes on from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, StrPath
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.readers.basis import extract_cores
from kronq.readers.load import load
from kronq.torch.adapted_model import adapted_layers, read_factors
from kronq.torch.core_linear import CoreLinear


def take_start(model: Any, start: StrPath | Adapter, base: StrPath) -> str:
    """Puts an adapter's values into the adapted layers of a model.

    Each layer keeps the factor of ΔW that it is trained with. A and each row of B2 get the norms
    that a new layer begins with, and B1 what is left: AdamW moves each entry as far as the rate
    says, whatever its size, and codes divide ΔW otherwise, with a B1 of a thousandth.

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
        name: _in_gauge(delta, layers[name].delta()) if name in layers else delta
        for name, delta in adapter.items()
    }
    read_factors(model, replace(adapter, layers=scaled))
    values = hashlib.sha256()
    for layer in layers.values():
        for matrix in layer.delta().matrices:
            values.update(matrix.float32().tobytes())
    return values.hexdigest()


def _in_gauge(start: Delta, new: Delta) -> Delta:
    """Returns the same ΔW by factors with the scale of a new layer and the norms of its A and B2.

    A rank component that adds nothing takes its row of B2 from the new layer: with zeros on both
    sides it could not learn.
    """
    if start.shape != new.shape or [m.shape for m in start.matrices] != [
        m.shape for m in new.matrices
    ]:
        return start  # to be refused
    a, factor = start.a, start.scale / new.scale
    if a is not ONE:
        found, wanted = (float(np.linalg.norm(each.a.left.float32())) for each in (start, new))
        share = wanted / found if found else 1.0
        a, factor = Product(Float(a.left.float32() * np.float32(share))), factor / share
    left, right = start.b.float32()
    if right is None or new.b.right is None:
        return replace(new, a=a, b=Product(Float(left * np.float32(factor))))
    begun = new.b.right.float32()
    norms = np.linalg.norm(right.astype(np.float64), axis=1)
    used: NDArray[np.bool_] = left.any(axis=0) & (norms > 0)
    shares = np.linalg.norm(begun, axis=1) / np.where(used, norms, 1.0)
    b1 = np.where(used, left * (factor / shares), 0.0).astype(np.float32)
    b2 = np.where(used[:, None], right * shares[:, None], begun).astype(np.float32)
    return replace(new, a=a, b=Product(Float(b1), Float(b2)))
