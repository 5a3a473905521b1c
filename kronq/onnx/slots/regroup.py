"""Adapters whose layers are fused otherwise than the layers that a graph has slots for.

A Phi-3 adapter has one layer for q, k and v; one of the same model in Llama's form has three.
Either fills the slots that the other one opened: as the exact LoRA of its layers, in other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import numpy as np

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.exact_lora import exact_lora_factors
from kronq.model.layer_names import natural_key
from kronq.model.matrix import Float
from kronq.onnx.graph.fused_layers import fused_name, part_names
from kronq.onnx.graph.sites import part_rows, parts_fit

Shapes = Mapping[str, tuple[int, int]]
"""Layer → (d_out, d_in)."""


def regroup_layers(adapter: Adapter, slots: Shapes) -> Adapter:
    """Splits fused layers into parts that have slots, and joins parts where fused layers have.

    Layers that have no slot either way stay as they are.

    Args:
        adapter: Any adapter.
        slots: The layers that have slots.

    Raises:
        MismatchError: Two layers go to one slot, or do not fit together in it.
    """
    if all(name in slots for name in adapter):
        return adapter
    layers: dict[str, Delta] = {}
    joined: dict[str, dict[str, Delta]] = {}
    for name, delta in adapter.items():
        fused = fused_name(name)
        if name not in slots and fused is not None and fused[0] in slots:
            joined.setdefault(fused[0], {})[fused[1]] = delta
            continue
        for own, part in _parts(adapter, name, slots).items():
            _refuse_second(own, layers)
            layers[own] = part
    for name, parts in joined.items():
        _refuse_second(name, layers)
        layers[name] = _join(name, parts, slots[name])
    return replace(adapter, layers={name: layers[name] for name in sorted(layers, key=natural_key)})


def _refuse_second(name: str, layers: Mapping[str, Delta]) -> None:
    if name in layers:
        raise MismatchError("two layers of the adapter go to one slot", layer=name)


def _parts(adapter: Adapter, name: str, slots: Shapes) -> dict[str, Delta]:
    """Returns a fused layer's parts; the layer itself where these have no slots of its rows."""
    names = part_names(name)
    if name in slots or not names or any(part not in slots for part in names):
        return {name: adapter[name]}
    ends = list(accumulate(slots[part][0] for part in names))
    fitted = adapter.fit_layer(name, (ends[-1], slots[names[0]][1]))
    if fitted is None:
        return {name: adapter[name]}
    up, down = exact_lora_factors(fitted)
    starts = (0, *ends)
    return {
        part: _lora(up[start:end] * abs(fitted.scale), down)
        for part, start, end in zip(names, starts, ends, strict=False)
    }


def _join(name: str, parts: Mapping[str, Delta], shape: tuple[int, int]) -> Delta:
    """Returns one layer with the parts' rows; those of missing parts are zeros."""
    sizes = {part: delta.shape[0] for part, delta in parts.items()}
    if not parts_fit(sizes, shape[0]) or {d.shape[1] for d in parts.values()} != {shape[1]}:
        raise MismatchError(
            "the layers do not fit the fused layer that has the slot",
            layer=name,
            found=", ".join(f"{part} {list(delta.shape)}" for part, delta in parts.items()),
            expected=list(shape),
        )
    factors = {part: exact_lora_factors(delta) for part, delta in parts.items()}
    up = np.zeros((shape[0], sum(u.shape[1] for u, _ in factors.values())))
    at = 0
    for part, (own, _) in factors.items():
        columns = slice(at, at + own.shape[1])
        up[slice(*part_rows(part, sizes[part], shape[0])), columns] = own * abs(parts[part].scale)
        at = columns.stop
    return _lora(up, np.concatenate([down for _, down in factors.values()]))


def exact_lora(delta: Delta) -> Delta:
    """Returns a layer as its exact LoRA, in its cropped shape."""
    up, down = exact_lora_factors(delta)
    return _lora(up * abs(delta.scale), down)


def _lora(up: F64, down: F64) -> Delta:
    b1, b2 = (Float(factor.astype(np.float32)) for factor in (up, down))
    return Delta.uncropped(ONE, Product(b1, b2), 1.0)
