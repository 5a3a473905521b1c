"""Brings an adapter into the layers that a graph has slots for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kronq.errors import MismatchError, UnsupportedError, listing
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.plain import DORA_FORMS, refuse_carried, refuse_cores, refuse_magnitudes
from kronq.model.stacks import LayerStack
from kronq.onnx.slots.regroup import Shapes, exact_lora, regroup_layers

_SLOTS_HINT = "slots are opened for the layers of the adapter given to {export_onnx}"


def fit_to_slots(adapter: Adapter, slots: Shapes | None) -> Adapter:
    """Returns an adapter whose layers are whole Kronecker products that have slots.

    Fused layers are split or joined, and a cropped product becomes its exact LoRA; all other
    layers stay as they are.

    Args:
        adapter: Any adapter of linear layers.
        slots: Layer → (d_out, d_in) of a graph's slots; None takes the layers as they are.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
        UnsupportedError: The adapter has convolutions, DoRA's magnitudes or carried tensors.
    """
    refuse_cores(adapter, "a record of an adapter")
    if any(stack.magnitude is not None for stack in adapter.stacks):
        refuse_magnitudes(adapter, "a model with slots", DORA_FORMS)
    refuse_carried(adapter, "a model with slots")
    if all(_fits_whole(stack, slots) for stack in adapter.stacks):
        return adapter
    if slots is not None:
        adapter = regroup_layers(adapter, slots)
        refuse_missing(adapter, slots)
    changed: dict[str, Delta] = {}
    for stack in adapter.stacks:
        if any(size > 1 for size in stack.kernel):
            raise UnsupportedError(
                "the compiled operator takes no convolutions",
                layer=stack.names[0],
                path=adapter.origin.path,
                hint="slots with {compiled=False} take them",
            )
        if not _fits_whole(stack, slots):
            for name in stack.names:
                delta = adapter[name] if slots is None else fit_layer(adapter, name, slots)
                if delta.shape != delta.full_shape:
                    delta = exact_lora(delta)
                changed[name] = delta
    return replace(adapter, layers={**adapter.layers, **changed}) if changed else adapter


def _fits_whole(stack: LayerStack, slots: Shapes | None) -> bool:
    """Tells whether all layers are linear, of their slots' shapes, and whole products."""
    if not stack.is_uncropped or any(size > 1 for size in stack.kernel):
        return False
    return slots is None or {*map(slots.get, stack.names)} == {stack.shape}


def refuse_missing(adapter: Adapter, slots: Mapping[str, tuple[int, int]]) -> None:
    """Refuses an adapter with layers that have no slot.

    Raises:
        MismatchError: There are some; all are listed.
    """
    missing = [name for name in adapter if name not in slots]
    if missing:
        raise MismatchError(
            f"{len(missing)} of {len(adapter)} layers have no slot",
            path=adapter.origin.path,
            found=listing(missing),
            hint=_SLOTS_HINT,
            code="layers-not-in-base",
        )


def fit_layer(adapter: Adapter, name: str, slots: Mapping[str, tuple[int, int]]) -> Delta:
    """Returns a layer in the shape of its slot.

    Raises:
        MismatchError: It has another shape.
    """
    fitted = adapter.fit_layer(name, slots[name])
    if fitted is None:
        raise MismatchError(
            "the slot has another shape",
            layer=name,
            found=list(adapter[name].shape),
            expected=list(slots[name]),
            hint=_SLOTS_HINT,
            code="shape",
        )
    return fitted
