"""Fits an adapter to its base's shapes: raw factors are cropped, other shapes are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter


def fit_adapter(
    adapter: Adapter,
    shapes: Mapping[str, tuple[int, int]],
    labels: Mapping[str, str] | None = None,
) -> Adapter:
    """Returns the adapter with every layer in the shape that the base has for it.

    Args:
        adapter: Layers of any shape; only raw factors, which do not know d_out, can be cropped.
        shapes: Layer → (d_out, d_in) in the base.
        labels: Layer → the base's name for it, for the message.

    Raises:
        MismatchError: A layer has another shape than the base's weight.
    """
    fitted = {}
    made_for = adapter.origin.base_model
    for name, delta in adapter.items():
        cropped = adapter.fit_layer(name, shapes[name])
        if cropped is None:
            label = f" at {labels[name]!r}" if labels else ""
            raise MismatchError(
                "the layer has another shape than the base's weight",
                layer=name,
                found=f"{list(delta.shape)} in the adapter",
                expected=f"{list(shapes[name])}{label}",
                hint="wrong base model?"
                + (f" the adapter was made for {made_for}" if made_for else ""),
                code="shape",
            )
        fitted[name] = cropped
    return replace(adapter, layers=fitted)
