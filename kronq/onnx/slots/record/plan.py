"""Writes the record of an adapter: its size is known at once, its bytes are made in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kronq.errors import FormatError
from kronq.model.adapter import Adapter, check_finite
from kronq.model.stacks import LayerStack
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
    part_layout,
    round_up,
    widest_type,
)
from kronq.onnx.slots.record.words import I64, U8
from kronq.onnx.slots.regroup import Shapes

_TOGETHER = 3 * 2**18
"""Bytes that are made at once: little beside what a stream of codes takes while it is read."""


@dataclass(frozen=True, eq=False)
class _Stack:
    """Layers of one shape, whose parts stand one after the other.

    Attributes:
        layers: The layers.
        b1: B1ᵀ of all of them.
        b2: B2ᵀ of all of them.
        layouts: Of their parts, which differ in the types of numbers alone.
        kinds: Which of the layouts each layer has.
    """

    layers: LayerStack
    b1: Factor
    b2: Factor
    layouts: Sequence[PartLayout]
    kinds: I64

    @cached_property
    def sizes(self) -> I64:
        """Bytes of each layer's part."""
        return self.each("size")

    def each(self, field: str) -> I64:
        """Returns a number of each layer's layout."""
        return np.array([getattr(layout, field) for layout in self.layouts])[self.kinds]


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
        ids = [layer_id(name) for stack in self.stacks for name in stack.layers.names]
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
        return self._directory_end + sum(int(stack.sizes.sum()) for stack in self.stacks)

    def chunks(self, tag: int = 0) -> Iterator[U8]:
        """Yields the record's bytes, some layers at a time.

        Args:
            tag: What a request has to know to use it; 0 outside of a pool.

        Raises:
            FormatError: A layer has values that are not finite.
        """
        yield self._front(tag)
        for stack in self.stacks:
            pieces = -(-int(stack.sizes.sum()) // _TOGETHER)
            step = -(-len(stack.sizes) // pieces)
            for first in range(0, len(stack.sizes), step):
                yield self._parts(stack, slice(first, min(first + step, len(stack.sizes))))

    def _front(self, tag: int) -> U8:
        """Returns the head and the directory."""
        front = np.zeros(self._directory_end, dtype=np.uint8)
        head = (MAGIC, VERSION, len(self.ids), self.size, tag, b"")
        front[: HEAD.itemsize].view(HEAD)[0] = head
        directory = front[HEAD.itemsize :][: ENTRY.itemsize * len(self.ids)].view(ENTRY)
        sizes = np.concatenate([stack.sizes for stack in self.stacks])
        ids = np.array(self.ids, dtype="<u8")
        order = np.argsort(ids)
        directory["layer"] = ids[order]
        directory["offset"] = (self._directory_end + np.cumsum(sizes) - sizes)[order]
        return front

    def _parts(self, stack: _Stack, layers: slice) -> U8:
        """Returns the parts of some layers, one after the other."""
        sizes = stack.sizes[layers]
        starts = np.cumsum(sizes) - sizes
        parts = np.zeros(int(sizes.sum()), dtype=np.uint8)
        finite = _put_fronts(stack, layers, parts, starts)
        first = stack.layouts[0]
        for factor, side, columns in (
            (stack.b2, "b2", first.lanes),
            (stack.b1, "b1", first.columns),
        ):
            types, at = stack.each(side)[layers], starts + stack.each(f"{side}_at")[layers]
            finite &= factor.put_layers(layers, types, columns, parts, at)
        if not finite:
            self._refuse_not_finite(stack.layers.names[layers])
        return parts

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
    return RecordPlan(fitted, [*map(_lay_out, fitted.stacks)])


def _lay_out(layers: LayerStack) -> _Stack:
    """Lays out a stack's layers, each with the widths of its own codes: wide ones are few."""
    (b1, b2), first = stack_factors(layers), layers.first
    (b_out, b_in), rank = first.b.shape, first.b.rank
    kinds = np.zeros(len(layers.names), dtype=np.int64)
    kinds += 64 * _word_types(b1, rank) + _word_types(b2, b_in)
    found, inverse = np.unique(kinds, return_inverse=True)
    sizes = (first.a.shape, (b_out, b_in), rank)
    layouts = [part_layout(*sizes, *divmod(kind, 64)) for kind in found.tolist()]
    return _Stack(layers, b1, b2, layouts, inverse)


def _word_types(factor: Factor, rows: int) -> I64:
    """Returns the type of each layer's words, or one for all."""
    wide = {each: widest_type(each, rows) for each in {*factor.types}}
    return np.array([wide[each] for each in factor.types], dtype=np.int64)


def _put_fronts(stack: _Stack, layers: slice, parts: U8, starts: I64) -> bool:
    """Puts sizes, scales and A to the beginning of each part; tells whether they are finite."""
    with np.errstate(over="ignore"):  # is refused below
        a = stack.layers.scaled_a(layers)
    first, count = stack.layouts[0], len(starts)
    fronts = np.zeros((count, first.b2_at), dtype=np.uint8)
    heads = [(*x.a, *x.b, x.rank, x.b1, x.b2, b"") for x in stack.layouts]
    fronts[:, : PART.itemsize].view(PART)[:, 0] = np.array(heads, dtype=PART)[stack.kinds[layers]]
    scales = np.ones((count, first.rank), dtype=np.float32)
    for factor in (stack.b1, stack.b2):
        if factor.scales is not None:
            scales *= factor.scales(layers)
    fronts[:, PART.itemsize :].view("<f4")[:, : first.rank] = scales
    fronts[:, first.a_at :].view("<f4")[:, : a[0].size] = a.reshape(count, -1)
    lines = starts[:, None] // 8 + np.arange(first.b2_at // 8)
    parts.view("<u8")[lines] = fronts.view("<u8")
    return bool(np.isfinite(a).all() and np.isfinite(scales).all())


def adapter_record(adapter: Adapter, slots: Shapes | None = None, *, tag: int = 0) -> U8:
    """Returns the record of an adapter in memory; see ``plan_record``.

    Raises:
        FormatError: A layer has values that are not finite.
        MismatchError: A layer has no slot, or another shape than its slot.
        UnsupportedError: The adapter has convolutions, DoRA's magnitudes or carried tensors.
    """
    return np.concatenate(list(plan_record(adapter, slots).chunks(tag)))
