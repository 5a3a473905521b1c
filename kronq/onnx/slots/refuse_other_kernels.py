"""Refuses an adapter whose convolutions have other kernels than the slots of a graph."""

from __future__ import annotations

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.onnx.slots.slot_spec import SlotSpec


def refuse_other_kernels(adapter: Adapter, spec: SlotSpec) -> None:
    """Refuses a kernel that is not the slot's; a layer without one has the slot's, size 1 is none.

    Raises:
        MismatchError: A layer has another kernel than its slot.
    """
    for name, delta in adapter.items():
        own = spec.kernels.get(name, ())
        if delta.kernel and name in spec.layers and delta.kernel != own:
            if {*delta.kernel, *own} == {1}:
                continue
            raise MismatchError(
                "the slot has another kernel",
                layer=name,
                found="×".join(map(str, delta.kernel)),
                expected="×".join(map(str, own)) or "a linear layer",
                path=adapter.origin.path,
            )
