"""The adapters of rows: from a name to what a graph takes for the rows of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from kronq.errors import NotFoundError


@dataclass(frozen=True)
class RowAdapter:
    """One adapter, as rows run with it.

    Attributes:
        name: Its name.
        digest: SHA-256 of what is run, in hexadecimal digits.
        offset: Where its record begins in the pool, in bytes.
        tag: Number that the record begins with, which the operator compares.
    """

    name: str
    digest: str
    offset: int
    tag: int


class RowAdapters(Protocol):
    """Where an engine finds the adapters of its rows; for several threads."""

    def __iter__(self) -> Iterator[str]:
        """Yields the names of all adapters."""

    def find(self, name: str) -> RowAdapter:
        """Returns the adapter that a name stands for now; it stays until it is released.

        Raises:
            NotFoundError: There is none of this name.
        """

    def release(self, adapter: RowAdapter) -> None:
        """Lets go of an adapter that ``find`` has returned."""

    def inputs(self, rows: Sequence[RowAdapter | None], /) -> Mapping[str, NDArray[Any]]:
        """Returns the graph's further inputs for a run of these rows; None is the base alone."""


class NoAdapters:
    """The base alone."""

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def release(self, _adapter: RowAdapter) -> None:
        pass

    def find(self, name: str) -> RowAdapter:
        raise NotFoundError("no such adapter", found=name, expected="none: the base runs alone")

    def inputs(self, _rows: Sequence[RowAdapter | None], /) -> Mapping[str, NDArray[Any]]:
        return {}
