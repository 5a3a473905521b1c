"""The adapters of rows: from a name to what a graph takes for the rows of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from kronq.engine.record_fit import RecordFit
from kronq.errors import NotFoundError
from kronq.onnx.base_prints import BasePrints
from kronq.onnx.slots.pool_inputs import NO_POOL, POOL, pool_inputs, row_inputs
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.pool.entry import Entry
from kronq.pool.pool import Pool


class RowAdapters(Protocol):
    """Where an engine finds the adapters of its rows; for several threads."""

    def __iter__(self) -> Iterator[str]:
        """Yields the names of all adapters."""

    def __len__(self) -> int:
        """Returns the number of adapters."""

    def __contains__(self, name: object, /) -> bool:
        """Returns whether there is an adapter of a name."""

    def find(self, name: str, /) -> Entry:
        """Returns the adapter that a name stands for now; it stays until it is released.

        Raises:
            NotFoundError: There is none of this name.
        """

    def release(self, adapter: Entry, /) -> None:
        """Lets go of an adapter that ``find`` has returned."""

    def inputs(self, rows: Sequence[Entry | None], /) -> Mapping[str, NDArray[Any]]:
        """Returns the graph's further inputs for a run of these rows; None is the base alone."""


class NoAdapters(dict[str, Entry]):
    """The base alone.

    Args:
        slots: The graph's slots; None where it has no inputs for rows.
    """

    def __init__(self, slots: SlotSpec | None = None) -> None:
        super().__init__()
        self._slots = slots

    def find(self, name: str, /) -> Entry:
        raise NotFoundError("no such adapter", found=name, expected="none: the base runs alone")

    def release(self, _adapter: Entry, /) -> None:
        """Does nothing."""

    def inputs(self, rows: Sequence[Entry | None], /) -> Mapping[str, NDArray[Any]]:
        if self._slots is None:
            return {}
        given = row_inputs([None] * len(rows))
        return given if self._slots.stacked else {POOL: NO_POOL, **given}


class PoolAdapters:
    """The adapters of a pool.

    Args:
        pool: The pool.
        slots: The graph's slots, which an adapter has to fit.
        prints: Fingerprints of the graph's weights; None takes adapters of any base.
    """

    def __init__(self, pool: Pool, slots: SlotSpec, prints: BasePrints | None) -> None:
        self._pool = pool
        self._fit = RecordFit(slots, prints)
        self._fitting: set[tuple[str, str]] = set()

    def __iter__(self) -> Iterator[str]:
        self._pool.refresh()
        return iter(self._pool)

    def __len__(self) -> int:
        return len(self._pool)

    def __contains__(self, name: object, /) -> bool:
        self._pool.refresh()
        return name in self._pool

    def find(self, name: str, /) -> Entry:
        """Returns the adapter that a name stands for now, and pins it.

        Raises:
            NotFoundError: There is none of this name.
            MismatchError: It has other layers than the graph has slots for, or was calibrated or
                tested with another base.
            FormatError: Its record is damaged.
        """
        self._pool.refresh()
        entry = self._pool.pin(name)
        key = (entry.digest, entry.fingerprint)
        if key not in self._fitting:
            record = self._pool.bytes[entry.offset : entry.offset + entry.size]
            try:
                self._fit.check(record, self._pool.path)
                self._fit.check_base(record, entry.fingerprint)
            except BaseException:
                self._pool.unpin(entry)
                raise
            self._fitting.add(key)
        return entry

    def release(self, adapter: Entry, /) -> None:
        self._pool.unpin(adapter)

    def inputs(self, rows: Sequence[Entry | None], /) -> Mapping[str, NDArray[Any]]:
        places = [None if entry is None else (entry.offset, entry.tag) for entry in rows]
        return pool_inputs(self._pool.bytes, places)
