"""The inputs of a graph in the form pool: a pool of records, and where in it each row's one is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POOL = "kronq.pool"
"""Input of all records: uint8, of any size; a memory map will do."""
ROWS = "kronq.rows"
"""Input of the byte of the pool where each row's record begins: int64 [batch]; −1 is the base."""
TAGS = "kronq.tags"
"""Input of the tag that each row's record has: its 64 bits as int64 [batch]."""

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
    offsets = [-1 if row is None else row[0] for row in rows]
    tags = np.array([0 if row is None else row[1] for row in rows], dtype=np.uint64)
    return {POOL: pool, ROWS: np.array(offsets, dtype=np.int64), TAGS: tags.view(np.int64)}
