"""The inputs of a graph in the form pool: adapters, and which of them each row of the batch takes.

With the compiled operator they are records, in a pool that is bound as it is, and a row names its
record by its first byte. ONNX's own operators read no records: they take stacks of factors
(``kronq.onnx.slots.row_stacks``), and a row names its adapter by its number in these. In both a row
names its adapter's tag as well, and a run in which one names another's is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POOL = "kronq.pool"
"""Input of all records: uint8, of any size; a memory map will do."""
ROWS = "kronq.rows"
"""Input of the byte of the pool where each row's record begins, or of the adapter's number in the
stacks: int64 [batch]; −1 is the base."""
TAGS = "kronq.tags"
"""Input of the tag that each row's record has: its 64 bits as int64 [batch]."""

STACK_TAGS = "kronq.stack.tags"
"""Input of the tag of each adapter in the stacks of ONNX's own operators, int64 [adapters]."""

NO_POOL = np.zeros(8, dtype=np.uint8)
"""What stands for the pool where no row has an adapter."""

Place = tuple[int, int]
"""Where a record begins in the pool, and its tag."""


def pool_inputs(
    pool: NDArray[np.uint8], rows: Sequence[Place | None]
) -> dict[str, NDArray[np.uint8] | NDArray[np.int64]]:
    """Returns the inputs for a run of rows that each have an adapter of their own.

    Args:
        pool: Records, one after another.
        rows: Of each row of the batch its record's place and tag; None is the base alone.

    Example:
        >>> pool = np.memmap("pool/records", np.uint8, "r")
        >>> session.run(None, {**feeds, **pool_inputs(pool, [(4096, 17), None])})
    """
    return {POOL: pool, **row_inputs(rows)}


def row_inputs(rows: Sequence[Place | None]) -> dict[str, NDArray[np.int64]]:
    """Returns the inputs that name each row's adapter: by its place and its tag."""
    offsets = [-1 if row is None else row[0] for row in rows]
    tags = np.array([0 if row is None else row[1] for row in rows], dtype=np.uint64)
    return {ROWS: np.array(offsets, dtype=np.int64), TAGS: tags.view(np.int64)}
