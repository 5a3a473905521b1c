"""Weighted sums of adapters: Σ strength · ΔW, exactly, with factors and no dense ΔW.

LoRAs add up by concatenating their ranks, as PEFT's ``add_weighted_adapter`` does with "cat". A sum
of Kronecker products is none, so where a layer has several, each becomes its exact LoRA first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kronq.errors import ArgumentError, MismatchError, check_type
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.model.exact_lora import check_lora_size, exact_lora_factors
from kronq.model.layer_names import natural_key
from kronq.model.matrix import Float
from kronq.model.plain import refuse_carried, refuse_cores, refuse_magnitudes

Shapes = Mapping[str, tuple[int, int]]


def weighted_sum(
    adapters: Sequence[tuple[Adapter, float]], *, shapes: Shapes | None = None
) -> Adapter:
    """Adds up adapters, each times its strength.

    A layer that one adapter has keeps its factors, and its scale takes the strength; of a single
    adapter all layers do. A layer of several becomes a LoRA, of the sum of their ranks: rank(A)·r
    for a Kronecker product.

    Args:
        adapters: Adapters with their strengths: 1 as trained, 0 none, negative the opposite.
        shapes: Layer → (d_out, d_in) in the base, for raw factors, which are cropped to them.

    Returns:
        The sum; a single adapter, quantized or not, stays as it is but for the scale.

    Raises:
        ArgumentError: There is no adapter, or a strength is no finite number.
        MismatchError: Two adapters have one layer in different shapes.
        UnsupportedError: The exact LoRA would be huge; or an adapter has DoRA's magnitudes or
            carried tensors, which have no sum.

    Example:
        >>> both = weighted_sum([(load("a"), 0.7), (load("b"), 0.3)])
    """
    if not adapters:
        raise ArgumentError("no adapters to add up", expected="one or more")
    for adapter, strength in adapters:
        check_type("adapter", adapter, Adapter)
        check_strength(strength)
    if any(strength != 1 for _, strength in adapters) or len(adapters) > 1:
        for adapter, _ in adapters:
            refuse_cores(adapter, "a weighted sum")
            refuse_magnitudes(adapter, "a weighted sum")
            refuse_carried(adapter, "a weighted sum")
    if len(adapters) == 1:
        adapter, strength = adapters[0]
        if strength == 1:  # its layers stay in their stacks, unbuilt
            return adapter
        return replace(adapter, layers={n: _times(d, strength) for n, d in adapter.items()})
    terms: dict[str, list[Delta]] = {}
    for adapter, strength in adapters:
        for name, delta in adapter.items():
            fitted = _fit(adapter, name, (shapes or {}).get(name))
            terms.setdefault(name, []).append(_times(fitted or delta, strength))
    shared = {name: deltas for name, deltas in terms.items() if len(deltas) > 1}
    for name, deltas in shared.items():
        _check_shapes(name, deltas)
    check_lora_size(Adapter({f"{n} {i}": d for n, ds in shared.items() for i, d in enumerate(ds)}))
    summed = {
        name: _add(terms[name]) if name in shared else _as_floats(terms[name][0])
        for name in sorted(terms, key=natural_key)
    }
    bases = {adapter.origin.base_model for adapter, _ in adapters}
    cropped = any(adapter.origin.cropped_by_base for adapter, _ in adapters)
    base = bases.pop() if len(bases) == 1 else None
    return Adapter(summed, Origin("memory", base_model=base, cropped_by_base=cropped))


def check_strength(strength: object) -> None:
    """Refuses what is no finite number.

    Raises:
        ArgumentError: It is none.
    """
    check_type("strength", strength, int, float, np.number)
    if not math.isfinite(strength):  # type: ignore[arg-type]
        raise ArgumentError("bad strength", found=strength, expected="a number, as 0.7")


def _fit(adapter: Adapter, name: str, shape: tuple[int, int] | None) -> Delta | None:
    return None if shape is None else adapter.fit_layer(name, shape)


def _times(delta: Delta, strength: float) -> Delta:
    return delta if strength == 1 else replace(delta, scale=delta.scale * float(strength))


def _as_floats(delta: Delta) -> Delta:
    """Returns a layer with float32 matrices in place of codes."""
    a = delta.a if delta.a is ONE else _dequantize(delta.a)
    return replace(delta, a=a, b=_dequantize(delta.b))


def _dequantize(product: Product) -> Product:
    return Product(*(Float(matrix.float32()) for matrix in product.matrices))


def _check_shapes(name: str, deltas: Iterable[Delta]) -> None:
    shapes = list(dict.fromkeys(delta.weight_shape for delta in deltas))
    if len(shapes) > 1:
        raise MismatchError(
            "adapters of different bases do not add up",
            layer=name,
            found=" and ".join("×".join(map(str, shape)) for shape in shapes),
            expected="one shape",
            code="other-base",
        )


def _add(deltas: Sequence[Delta]) -> Delta:
    """Returns the sum of a layer's terms as a LoRA: their factors side by side."""
    pairs = [exact_lora_factors(delta) for delta in deltas]
    ups = [up * abs(delta.scale) for (up, _), delta in zip(pairs, deltas, strict=True)]
    up = np.concatenate(ups, axis=1).astype(np.float32)
    down = np.concatenate([down for _, down in pairs]).astype(np.float32)
    return Delta.uncropped(ONE, Product(Float(up), Float(down)), 1.0, deltas[0].kernel)
