"""An adapter as the inputs of a graph with slots: input name → array.

A slot is a branch whose factors are inputs with defaults, and the defaults are no adapter: rank 0.
Layers that read the same input are one group, and share the reshape and the product with B2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.adapter import Adapter, check_finite
from kronq.model.matrix import F32
from kronq.onnx.slots.flatbuffer import InputStack
from kronq.onnx.slots.group_factors import (
    GroupFactors,
    LazyStack,
    empty_group_factors,
    group_factors,
)
from kronq.onnx.slots.pool_inputs import STACK_TAGS
from kronq.onnx.slots.record import adapter_record, plan_record
from kronq.onnx.slots.row_stacks import record_factors, row_stacks
from kronq.onnx.slots.slot_spec import PACKED, SlotGroup, SlotSpec, a_name, b1_name


def slot_inputs(adapter: Adapter, spec: SlotSpec) -> dict[str, NDArray[Any]]:
    """Returns an adapter as the graph takes it.

    Args:
        adapter: Any adapter whose layers have slots.
        spec: The graph's slots, ``SlotSpec.read(folder)``.

    Returns:
        Input → array, for all inputs of the slots: factors, or the adapter's record where the graph
        has compiled operators.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    return _arrays(lazy_slot_inputs(adapter, spec))


def lazy_slot_inputs(adapter: Adapter, spec: SlotSpec) -> list[InputStack]:
    """Returns the inputs of ``slot_inputs`` in stacks, computed when they are written.

    Raises:
        FormatError: A layer has values that are not finite.
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    if spec.stacked:
        return _stack_of_one(adapter, spec)
    if not spec.kernel:
        check_finite(adapter)
        return list(_factor_inputs(adapter, spec))
    record = plan_record(adapter, spec.layers)
    return [InputStack([PACKED], (record.size,), np.dtype(np.uint8), record.chunks)]


def _stack_of_one(adapter: Adapter, spec: SlotSpec) -> list[InputStack]:
    """Returns stacks with one adapter alone, which rows name by 0 and a tag of 0."""
    factors = record_factors(adapter_record(adapter, spec.layers), spec)
    arrays = {STACK_TAGS: np.zeros(2, np.int64), **row_stacks([factors], spec)}
    return [
        InputStack([name], array.shape, array.dtype, partial(list, [array[None]]))
        for name, array in arrays.items()
    ]


def factor_inputs(adapter: Adapter, spec: SlotSpec) -> dict[str, NDArray[Any]]:
    """Returns an adapter's factors by input name, also where the graph takes a record.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
    """
    return _arrays(_factor_inputs(adapter, spec))


def empty_inputs(group: SlotGroup) -> dict[str, NDArray[Any]]:
    """Returns the defaults of a group's inputs: rank 0, which is exactly no adapter."""
    return _arrays(_group_inputs([group], empty_group_factors(group)))


def _arrays(stacks: Iterable[InputStack]) -> dict[str, NDArray[Any]]:
    return {name: array for stack in stacks for name, array in stack.arrays().items()}


def _factor_inputs(adapter: Adapter, spec: SlotSpec) -> Iterator[InputStack]:
    for factors in group_factors(adapter, spec):
        yield from _group_inputs([spec.groups[i] for i in factors.groups], factors)


def _group_inputs(groups: Sequence[SlotGroup], factors: GroupFactors) -> Iterator[InputStack]:
    """Yields all inputs of groups whose factors have the same shapes."""
    first, float32 = groups[0], np.dtype(np.float32)
    shape = [*[0] * first.lead, factors.a_in, factors.b_in]
    if first.conv is not None:
        channels = factors.b_in // math.prod(first.conv.sizes)
        shape = [-1, channels, *[0] * len(first.conv.sizes)]
    yield _repeat([group.shape_name for group in groups], shape)
    for m, (a, left, _) in enumerate(factors.members):
        layers = [group.members[m].layer for group in groups]
        for name, stack in ((a_name, a), (b1_name, left)):
            names, make = [name(layer) for layer in layers], partial(_side_by_side, [stack])
            yield InputStack(names, stack.shape[1:], float32, make)
    rights = [right for _, _, right in factors.members]
    ranks = [right.shape[2] for right in rights]
    if first.conv is not None:
        weight = (ranks[0], channels, *first.conv.sizes)
        names = [group.b2_name for group in groups]
        yield InputStack(names, weight, float32, partial(_turned, rights[0]))
        return
    b2_names, b2_shape = [group.b2_name for group in groups], (factors.b_in, sum(ranks))
    yield InputStack(b2_names, b2_shape, float32, partial(_side_by_side, rights))
    if first.ranks_name is not None:
        yield _repeat([str(group.ranks_name) for group in groups], ranks)


def _turned(stack: LazyStack) -> list[F32]:
    return [np.ascontiguousarray(stack.make().swapaxes(1, 2))]


def _side_by_side(stacks: Sequence[LazyStack]) -> list[F32]:
    arrays = [stack.make() for stack in stacks]
    return arrays if len(arrays) == 1 else [np.concatenate(arrays, axis=2)]


def _repeat(names: list[str], numbers: list[int]) -> InputStack:
    """Returns inputs that all hold the same numbers."""
    array = np.tile(np.array(numbers, dtype=np.int64), (len(names), 1))
    return InputStack(names, (len(numbers),), array.dtype, lambda: [array])
