"""Stacks of factors that each row of a batch gathers its adapter's from, by ONNX's own operators.

A stack has a matrix of each adapter, all of one shape, and at its end the zeros of the base alone:
A [adapters + 1, 1, a_out, a_in], B1ᵀ [adapters + 1, 1, rank, b_out] and, of the members of a group
side by side, B2ᵀ [adapters + 1, 1, b_in, Σ rank]. Lower ranks are padded with zeros. Where adapters
divide a layer into blocks of different sizes, all of them are the exact LoRAs of their products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import StrPath
from kronq.model.matrix import F32
from kronq.onnx.slots.record.layout import layer_id
from kronq.onnx.slots.record.read import U8, read_record
from kronq.onnx.slots.slot_spec import SlotGroup, SlotSpec, a_name, b1_name

LayerFactors = tuple[F32, F32, F32]
"""A with the scale in it [a_out, a_in], B1ᵀ [rank, b_out] and B2ᵀ [b_in, rank]."""
Factors = Mapping[str, LayerFactors]
"""Layer → its factors."""


def record_factors(
    record: U8, spec: SlotSpec, path: StrPath | None = None
) -> dict[str, LayerFactors]:
    """Decodes an adapter's record.

    Args:
        record: One whole record.
        spec: The slots that it fits.
        path: Where it came from, for errors.

    Raises:
        FormatError: It is no record, or a damaged one.
    """
    names = {layer_id(name): name for name in spec.layers}
    return {
        names[number]: (
            layer.a,
            np.ascontiguousarray(layer.b1, dtype=np.float32),
            layer.b2.astype(np.float32) * layer.scale,
        )
        for number, layer in read_record(record, path).items()
    }


def empty_row_stacks(group: SlotGroup) -> dict[str, NDArray[Any]]:
    """Returns the stacks of a group without adapters: rank 0, for the base alone."""
    return GroupStacks(group, [], 0).inputs


class GroupStacks:
    """The stacks of one group, with room for so many adapters.

    Args:
        group: The group.
        adapters: Those that the shapes have to fit, which are put in, by their numbers; None for
            places without one.
        room: Adapters that there is room for.

    Attributes:
        inputs: Input → stack, or the numbers that say the stacks' shapes.
    """

    def __init__(self, group: SlotGroup, adapters: Sequence[Factors | None], room: int) -> None:
        self._layers = [member.layer for member in group.members]
        given = [each for each in adapters if each is not None]
        found = [[each.get(layer) for each in given] for layer in self._layers]
        shapes = [{each[0].shape for each in some if each is not None} for some in found]
        widths = {shape[1] for some in shapes for shape in some}
        self._blocks = len(widths) < 2 and all(len(some) < 2 for some in shapes)
        a_in = next(iter(widths), 1) if self._blocks else 1
        self._a = [next(iter(some), (1, a_in)) if self._blocks else (1, 1) for some in shapes]
        self._ranks = [max(map(self._rank, some), default=0) for some in found]
        self._ends = np.cumsum(self._ranks).tolist()
        self.inputs: dict[str, NDArray[Any]] = {
            group.shape_name: np.array([*[0] * group.lead, a_in, group.d_in // a_in], np.int64)
        }
        if group.ranks_name is not None:
            self.inputs[group.ranks_name] = np.array(self._ranks, np.int64)
        self._b2 = self._add(group.b2_name, room, group.d_in // a_in, sum(self._ranks))
        self._left = [
            (
                self._add(a_name(member.layer), room, *a),
                self._add(b1_name(member.layer), room, rank, member.d_out // a[0]),
            )
            for member, a, rank in zip(group.members, self._a, self._ranks, strict=True)
        ]
        for number, adapter in enumerate(adapters):
            if adapter is not None:
                self.put(number, adapter)

    def put(self, number: int, adapter: Factors) -> bool:
        """Puts an adapter in the place of another; returns False where the shapes do not fit it."""
        fitted = [adapter.get(layer) for layer in self._layers]
        if self._blocks and any(
            own is not None and own[0].shape != a for own, a in zip(fitted, self._a, strict=True)
        ):
            return False
        if any(self._rank(each) > r for each, r in zip(fitted, self._ranks, strict=True)):
            return False
        own = [None if each is None else self._fit(each) for each in fitted]
        self._b2[number] = 0
        for (a, b1), each, end, rank in zip(self._left, own, self._ends, self._ranks, strict=True):
            a[number] = b1[number] = 0
            if each is not None:
                count = len(each[1])
                a[number, 0], b1[number, 0, :count] = each[:2]
                self._b2[number, 0, :, end - rank : end - rank + count] = each[2]
        return True

    def _add(self, name: str, room: int, rows: int, cols: int) -> F32:
        stack: F32 = np.zeros((room + 1, 1, rows, cols), dtype=np.float32)
        self.inputs[name] = stack
        return stack

    def _rank(self, factors: LayerFactors | None) -> int:
        """Returns the rank that factors have in the stacks' blocks."""
        if factors is None:
            return 0
        a, b1, _ = factors
        return len(b1) if self._blocks else a.shape[1] * len(b1)

    def _fit(self, factors: LayerFactors) -> LayerFactors:
        """Returns factors in the stacks' blocks: those that they have, or one block."""
        a, b1, b2 = factors
        if self._blocks or a.shape == (1, 1):
            return factors
        (a_out, a_in), (rank, b_out) = a.shape, b1.shape
        up = np.einsum("oj,rb->jrob", a, b1).reshape(a_in * rank, a_out * b_out)
        return np.ones((1, 1), np.float32), up, np.kron(np.eye(a_in, dtype=np.float32), b2)


def row_stacks(adapters: Sequence[Factors], spec: SlotSpec) -> dict[str, NDArray[Any]]:
    """Returns the stacks of adapters, by input, without their tags."""
    made = [GroupStacks(group, adapters, len(adapters)) for group in spec.groups]
    return {name: stack for group in made for name, stack in group.inputs.items()}
