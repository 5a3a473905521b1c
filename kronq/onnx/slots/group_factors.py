"""Slot factors: the float32 matrices that an adapter fills each group of slots with.

A slot takes a Kronecker product of any shape and rank; a LoRA is one whose A is 1 by 1. Where the
layers of a group have A's of different widths, or a product is padded, each layer is filled with
its exact LoRA instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.exact_lora import exact_lora_factors
from kronq.model.matrix import F32
from kronq.model.matrix_stacks import LayerIndex, MatrixStack
from kronq.model.plain import DORA_FORMS, refuse_carried, refuse_cores, refuse_magnitudes
from kronq.model.stacks import LayerStack
from kronq.onnx.slots.record.fit import fit_layer, refuse_missing
from kronq.onnx.slots.refuse_other_kernels import refuse_other_kernels
from kronq.onnx.slots.regroup import regroup_layers
from kronq.onnx.slots.slot_spec import SlotGroup, SlotKernel, SlotSpec


@dataclass(frozen=True, eq=False)
class LazyStack:
    """One factor of many layers, computed when it is asked for.

    Touching memory for the first time costs more than the arithmetic, so the stacks of an adapter
    are never in memory all at once.

    Attributes:
        shape: (layers, rows, cols).
        make: Computes the stack.
    """

    shape: tuple[int, int, int]
    make: Callable[[], F32]

    @classmethod
    def of(cls, array: F32) -> LazyStack:
        """Wraps a stack that is computed already."""
        layers, rows, cols = array.shape
        return cls((layers, rows, cols), lambda: array)


SlotFactors = tuple[LazyStack, LazyStack, LazyStack]
"""A with the scale in it [a_out, a_in], B1ᵀ [rank, b_out] and B2ᵀ [b_in, rank], of many layers."""


@dataclass(frozen=True, eq=False)
class GroupFactors:
    """Factors of groups that have them in the same shapes.

    Attributes:
        groups: Numbers of the groups.
        a_in: Columns of A, the same of every member.
        b_in: Columns of B.
        members: Factors of each member in all of the groups; of rank 0 without an adapter.
    """

    groups: Sequence[int]
    a_in: int
    b_in: int
    members: Sequence[SlotFactors]


def group_factors(adapter: Adapter, spec: SlotSpec) -> Iterator[GroupFactors]:
    """Computes the factors of all groups, those of the same shapes together.

    Args:
        adapter: Any adapter whose layers have slots; raw factors are cropped to these.
        spec: The graph's slots.

    Raises:
        MismatchError: A layer has no slot, or another shape or kernel than its slot.
        UnsupportedError: The adapter has DoRA's magnitudes or carried tensors.
    """
    refuse_cores(adapter, "a model with slots")
    refuse_magnitudes(adapter, "a model with slots", DORA_FORMS)
    refuse_carried(adapter, "a model with slots")
    refuse_other_kernels(adapter, spec)
    adapter = regroup_layers(adapter, spec.layers)
    refuse_missing(adapter, spec.layers)
    stacks = adapter.stacks
    position = {
        name: (k, i) for k, stack in enumerate(stacks) for i, name in enumerate(stack.names)
    }
    uncropped = [
        s.is_uncropped and {spec.layers.get(n) for n in s.names} == {s.shape} for s in stacks
    ]
    cropped = {
        name: fit_layer(adapter, name, spec.layers)
        for stack, fits in zip(stacks, uncropped, strict=True)
        for name in stack.names
        if not fits
    }
    for (d_in, kinds, _, conv), groups in _alike_groups(spec, position).items():
        present = {kind for kind in kinds if kind >= 0}
        widths = {stacks[kind].first.a.shape[1] for kind in present}
        grouped = conv is not None and conv.groups > 1
        if grouped or len(widths) > 1 or not all(uncropped[kind] for kind in present):
            for number in groups:
                layers = [member.layer for member in spec.groups[number].members]
                deltas = [cropped.get(n) or adapter[n] if n in position else None for n in layers]
                yield _exact_lora_group(spec.groups[number], number, deltas)
            continue
        a_in = next(iter(widths), 1)
        members = []
        for m, kind in enumerate(kinds):
            if kind < 0:
                members.append(_empty_factors(len(groups), a_in, d_in // a_in, -kind))
            else:
                numbers = [position[spec.groups[i].members[m].layer][1] for i in groups]
                members.append(_stack_factors(stacks[kind], numbers))
        yield GroupFactors(groups, a_in, d_in // a_in, members)


def empty_group_factors(group: SlotGroup) -> GroupFactors:
    """Returns the factors of one group without an adapter, all of rank 0."""
    return _exact_lora_group(group, 0, [None] * len(group.members))


_Alike = tuple[int, tuple[int, ...], int, SlotKernel | None]


def _alike_groups(
    spec: SlotSpec, position: Mapping[str, tuple[int, int]]
) -> dict[_Alike, list[int]]:
    """Collects groups whose members come from the same stacks.

    Returns:
        (d_in, for each member the number of its stack, or −d_out without an adapter, lead, and the
        kernel of a convolution) → numbers of the groups.
    """
    alike: dict[_Alike, list[int]] = {}
    for number, group in enumerate(spec.groups):
        members = group.members
        own = tuple(position[m.layer][0] if m.layer in position else -m.d_out for m in members)
        alike.setdefault((group.d_in, own, group.lead, group.conv), []).append(number)
    return alike


def _empty_factors(groups: int, a_in: int, b_in: int, d_out: int) -> SlotFactors:
    shapes = ((groups, 1, a_in), (groups, 0, d_out), (groups, b_in, 0))
    a, left, right = (LazyStack.of(np.zeros(shape, dtype=np.float32)) for shape in shapes)
    return a, left, right


def _stack_factors(stack: LayerStack, numbers: list[int]) -> SlotFactors:
    """Returns the factors of some of a stack's layers."""
    run = slice(numbers[0], numbers[0] + len(numbers))
    layers = run if numbers == list(range(run.start, run.stop)) else numbers
    first, count = stack.first, len(numbers)
    (rows, cols), rank = first.b.shape, first.b.rank
    a = LazyStack((count, *first.a.shape), partial(stack.scaled_a, layers))
    left = LazyStack((count, rank, rows), partial(_transposed, stack.b[0], layers))
    right = LazyStack((count, cols, rank), partial(_transposed, stack.b[-1], layers))
    if len(stack.b) == 1:
        # B is not factored: it is multiplied with an identity, on its smaller side.
        one = LazyStack.of(np.broadcast_to(np.eye(rank, dtype=np.float32), (count, rank, rank)))
        left, right = (one, right) if rows <= cols else (left, one)
    return a, left, right


def _transposed(stack: MatrixStack, layers: LayerIndex) -> F32:
    return stack.float32(layers).swapaxes(1, 2)


def _exact_lora_group(
    group: SlotGroup, number: int, deltas: Sequence[Delta | None]
) -> GroupFactors:
    """Returns the factors of one group from the exact LoRA of each of its layers."""
    members = [
        _empty_factors(1, 1, group.d_in, member.d_out) if delta is None else _exact_lora(delta)
        for member, delta in zip(group.members, deltas, strict=True)
    ]
    return GroupFactors([number], 1, group.d_in, members)


def _exact_lora(delta: Delta) -> SlotFactors:
    up, down = exact_lora_factors(delta)
    scale = np.full((1, 1), abs(delta.scale))
    matrices = (scale, up, down)
    a, left, right = (LazyStack.of(x.T[None].astype(np.float32)) for x in matrices)
    return a, left, right
