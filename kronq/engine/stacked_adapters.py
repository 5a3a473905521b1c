"""The adapters of a pool for a graph of ONNX's own operators: decoded, and kept in its stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.engine.row_adapters import PoolAdapters
from kronq.onnx.base_prints import BasePrints
from kronq.onnx.slots.pool_inputs import STACK_TAGS, row_inputs
from kronq.onnx.slots.row_stacks import Factors, GroupStacks, record_factors
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.pool.entry import Entry
from kronq.pool.pool import Pool
from kronq.pool.record import verify_tag


class StackedAdapters(PoolAdapters):
    """The adapters of a pool, those of the rows in stacks of factors.

    An adapter is decoded when a row first runs with it, and stays until its place is needed.

    Args:
        pool: The pool.
        slots: The graph's slots, which an adapter has to fit.
        prints: Fingerprints of the graph's weights; None takes adapters of any base.
        rows: Rows that run at a time at most.
    """

    def __init__(self, pool: Pool, slots: SlotSpec, prints: BasePrints | None, rows: int) -> None:
        super().__init__(pool, slots, prints)
        self._slots = slots
        self._room = rows + 1  # and the one whose prompt is read
        self._places: dict[int, int] = {}
        self._factors: list[Factors | None] = [None] * self._room
        self._tags = np.zeros(self._room + 1, dtype=np.uint64)
        self._groups = [GroupStacks(group, [], self._room) for group in slots.groups]
        self._given = self._all_inputs()

    def inputs(self, rows: Sequence[Entry | None], /) -> Mapping[str, NDArray[Any]]:
        used = {entry.tag: entry for entry in rows if entry is not None}
        for tag in used:  # the last ones of the dictionary were used last
            if tag in self._places:
                self._places[tag] = self._places.pop(tag)
        for tag, entry in used.items():
            if tag not in self._places:
                self._take(entry)
        places = [None if e is None else (self._places[e.tag], e.tag) for e in rows]
        return {**self._given, **row_inputs(places)}

    def _take(self, entry: Entry) -> None:
        """Decodes an adapter into a free place, or that of the one that was used longest ago."""
        record = self._pool.bytes[entry.offset : entry.offset + entry.size]
        verify_tag(record, entry.tag, path=self._pool.path, name=entry.name)
        factors = record_factors(record, self._slots, self._pool.path)
        if len(self._places) < self._room:
            place = len(self._places)
        else:
            place = self._places.pop(next(iter(self._places)))
        self._factors[place], self._tags[place] = factors, entry.tag
        self._places[entry.tag] = place
        changed = False
        for number, group in enumerate(self._groups):
            if not group.put(place, factors):
                description = self._slots.groups[number]
                self._groups[number] = GroupStacks(description, self._factors, self._room)
                changed = True
        if changed:
            self._given = self._all_inputs()

    def _all_inputs(self) -> dict[str, NDArray[Any]]:
        stacks = {name: stack for group in self._groups for name, stack in group.inputs.items()}
        return {STACK_TAGS: self._tags.view(np.int64), **stacks}
