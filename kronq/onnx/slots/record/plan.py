"""Writes the record of an adapter: its size is known at once, its bytes are made in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError
from kronq.model.adapter import Adapter, check_finite
from kronq.model.stacks import LayerIndex, LayerStack
from kronq.onnx.slots.record.factors import Factor, stack_factors
from kronq.onnx.slots.record.fit import fit_to_slots
from kronq.onnx.slots.record.layout import (
    ENTRY,
    HEAD,
    MAGIC,
    PART,
    VERSION,
    PartLayout,
    layer_id,
    round_up,
    widest_type,
)
from kronq.onnx.slots.record.words import pack_words
from kronq.onnx.slots.regroup import Shapes

U8 = NDArray[np.uint8]

_TOGETHER = 2**24
"""Bytes that are made at once."""


@dataclass(frozen=True, eq=False)
class _Stack:
    """Layers of one layout, whose parts stand one after the other.

    Attributes:
        layers: Of one shape.
        numbers: Those of them that have this layout.
        b1: B1ᵀ of all of ``layers``.
        b2: B2ᵀ of all of ``layers``.
        layout: Of each part.
    """

    layers: LayerStack
    numbers: list[int]
    b1: Factor
    b2: Factor
    layout: PartLayout

    @property
    def names(self) -> list[str]:
        return [self.layers.names[number] for number in self.numbers]

    @property
    def size(self) -> int:
        return len(self.numbers) * self.layout.size

    def select(self, first: int, count: int) -> LayerIndex:
        """Returns where so many layers are, from the ``first`` on; a slice, if it can be one."""
        numbers = self.numbers[first : first + count]
        whole = len(self.numbers) == len(self.layers.names)
        return slice(first, first + len(numbers)) if whole else numbers


@dataclass(frozen=True, eq=False)
class RecordPlan:
    """A record that is about to be written.

    Attributes:
        adapter: Whose record it is, with the layers that the record has.
        stacks: Its layers, in the order in which they are written.
    """

    adapter: Adapter
    stacks: Sequence[_Stack]

    @cached_property
    def ids(self) -> list[int]:
        """Id of each layer, in the order in which they are written.

        Raises:
            FormatError: Two layers have one id.
        """
        ids = [layer_id(name) for stack in self.stacks for name in stack.names]
        if len(set(ids)) < len(ids):
            raise FormatError(
                "two layers have the same id", path=self.adapter.origin.path, code="duplicate"
            )
        return ids

    @property
    def _directory_end(self) -> int:
        return round_up(HEAD.itemsize + ENTRY.itemsize * len(self.ids))

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return self._directory_end + sum(stack.size for stack in self.stacks)

    def chunks(self, tag: int = 0) -> Iterator[U8]:
        """Yields the record's bytes, some layers at a time.

        Args:
            tag: What a request has to know to use it; 0 outside of a pool.

        Raises:
            FormatError: A layer has values that are not finite.
        """
        yield self._front(tag)
        for stack in self.stacks:
            step = max(1, _TOGETHER // stack.layout.size)
            for first in range(0, len(stack.numbers), step):
                yield self._parts(stack, stack.select(first, step))

    def _front(self, tag: int) -> U8:
        """Returns the head and the directory."""
        front = np.zeros(self._directory_end, dtype=np.uint8)
        head = (MAGIC, VERSION, len(self.ids), self.size, tag, b"")
        front[: HEAD.itemsize].view(HEAD)[0] = head
        directory = front[HEAD.itemsize :][: ENTRY.itemsize * len(self.ids)].view(ENTRY)
        sizes = np.repeat(
            [stack.layout.size for stack in self.stacks],
            [len(stack.numbers) for stack in self.stacks],
        )
        ids = np.array(self.ids, dtype="<u8")
        order = np.argsort(ids)
        directory["layer"] = ids[order]
        directory["offset"] = (self._directory_end + np.cumsum(sizes) - sizes)[order]
        return front

    def _parts(self, stack: _Stack, layers: LayerIndex) -> U8:
        """Returns the parts of some layers, one after the other."""
        layout = stack.layout
        with np.errstate(over="ignore"):  # is refused below
            a = stack.layers.scaled_a(layers)
        count = len(a)
        parts = np.zeros((count, layout.size), dtype=np.uint8)
        parts[:, : PART.itemsize].view(PART)[...] = np.array(
            (*layout.a, *layout.b, layout.rank, layout.b1, layout.b2, b""), dtype=PART
        )
        scales = np.ones((count, layout.rank), dtype=np.float32)
        for factor in (stack.b1, stack.b2):
            if factor.scales is not None:
                scales *= factor.scales(layers)
        finite = bool(np.isfinite(a).all() and np.isfinite(scales).all())
        _put(parts, PART.itemsize, scales)
        _put(parts, layout.a_at, a)
        for factor, number_type, at, columns in (
            (stack.b2, layout.b2, layout.b2_at, layout.lanes),
            (stack.b1, layout.b1, layout.b1_at, layout.columns),
        ):
            values = factor.values(layers)
            finite = finite and (values.dtype == np.int8 or bool(np.isfinite(values).all()))
            _put(parts, at, pack_words(values, number_type, columns))
        if not finite:
            names = stack.layers.names
            some = names[layers] if isinstance(layers, slice) else [names[i] for i in layers]
            self._refuse_not_finite(some)
        return parts.reshape(-1)

    def _refuse_not_finite(self, names: Sequence[str]) -> None:
        check_finite(self.adapter)  # names the layer, unless the scale is what makes it too large
        raise FormatError(
            "A times the adapter's scale is too large for float32",
            path=self.adapter.origin.path,
            layer=names[0],
            code="not-finite",
        )


def plan_record(adapter: Adapter, slots: Shapes | None = None) -> RecordPlan:
    """Plans the record of an adapter: what it will hold, and its size.

    Args:
        adapter: Any adapter of linear layers; the codes of a packed one are kept as they are.
        slots: Layer → (d_out, d_in) of the graph that will read it, ``SlotSpec.layers``; layers
            that are fused otherwise are split or joined. None takes the layers as they are.

    Raises:
        MismatchError: A layer has no slot, or another shape than its slot.
        UnsupportedError: The adapter has convolutions, DoRA's magnitudes or carried tensors.
    """
    fitted = fit_to_slots(adapter, slots)
    stacks = [stack for layers in fitted.stacks for stack in _split_by_types(layers)]
    return RecordPlan(fitted, stacks)


def _split_by_types(layers: LayerStack) -> Iterator[_Stack]:
    """Yields a stack's layers by the types of their numbers: all bytes of narrow codes are few."""
    (b1, b2), first = stack_factors(layers), layers.first
    (b_out, b_in), rank = first.b.shape, first.b.rank
    count = max(len(b1.types), len(b2.types))
    kinds: dict[tuple[int, int], list[int]] = {}
    for number, kind in enumerate(zip(_each(b1, rank, count), _each(b2, b_in, count), strict=True)):
        kinds.setdefault(kind, []).append(number)
    for types, numbers in kinds.items():
        layout = PartLayout(first.a.shape, (b_out, b_in), rank, *types)
        whole = [*range(len(layers.names))] if len(kinds) == 1 else numbers
        yield _Stack(layers, whole, b1, b2, layout)


def _each(factor: Factor, rows: int, count: int) -> Sequence[int]:
    """Returns the type of each layer's words."""
    wide = {each: widest_type(each, rows) for each in {*factor.types}}
    return [wide[each] for each in factor.types] * (count if len(factor.types) == 1 else 1)


def adapter_record(adapter: Adapter, slots: Shapes | None = None, *, tag: int = 0) -> U8:
    """Returns the record of an adapter in memory; see ``plan_record``.

    Raises:
        FormatError: A layer has values that are not finite.
        MismatchError: A layer has no slot, or another shape than its slot.
        UnsupportedError: The adapter has convolutions, DoRA's magnitudes or carried tensors.
    """
    return np.concatenate(list(plan_record(adapter, slots).chunks(tag)))


def _put(parts: U8, at: int, numbers: NDArray[np.float32] | NDArray[np.uint32]) -> None:
    """Puts each layer's numbers into its part, from byte ``at`` on."""
    flat = np.ascontiguousarray(numbers).reshape(len(parts), -1)
    parts[:, at : at + 4 * flat.shape[1]].view(flat.dtype)[...] = flat
