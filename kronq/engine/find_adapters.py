"""How a model's rows get their adapters: as records of a pool, from stacks, or not at all."""

from __future__ import annotations

from pathlib import Path

from kronq.engine.row_adapters import NoAdapters, PoolAdapters, RowAdapters
from kronq.engine.stacked_adapters import StackedAdapters
from kronq.errors import StrPath
from kronq.onnx.base_prints import read_prints
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec
from kronq.pool.pool import Pool


def find_adapters(
    folder: Path, pool: Pool | StrPath | None, rows: int, *, other_base: bool
) -> RowAdapters:
    """Returns the adapters of a pool that a model runs with; without a pool there are none.

    Args:
        folder: The model's folder.
        pool: A pool, or its folder.
        rows: Rows that run at a time at most.
        other_base: Takes adapters that were calibrated or tested with another base, too.
    """
    if pool is None:
        own = SlotSpec.read(folder) if (folder / SPEC).is_file() else None
        return NoAdapters(own if own is not None and own.pool else None)
    opened = pool if isinstance(pool, Pool) else Pool.open(pool)
    prints = None if other_base else read_prints(folder)
    slots = SlotSpec.read(folder)
    if slots.stacked:
        return StackedAdapters(opened, slots, prints, rows)
    return PoolAdapters(opened, slots, prints)
