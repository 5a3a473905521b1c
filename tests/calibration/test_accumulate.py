"""Sums that are resumed after a crash at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kronq.calibration.accumulate import accumulate
from kronq.calibration.batches import Batch, TokenSequence, pad_sequences
from kronq.calibration.moment_store import MomentStore

WIDTHS = {"x": 3, "y/0": 5}
BATCHES = [pad_sequences([TokenSequence(tuple(range(1, n)), 1)]) for n in range(3, 12)]


def grams(batch: Batch) -> Iterator[tuple[str, np.ndarray]]:
    for name, width in WIDTHS.items():
        rows = np.outer(batch.ids[0], np.arange(1, width + 1)).astype(np.float32)
        yield name, rows.T @ rows


@pytest.mark.parametrize("after", range(1, 2 * len(BATCHES)))
def test_a_crash_in_the_middle_of_a_batch_counts_nothing_twice(tmp_path: Path, after: int) -> None:
    left = iter(range(after))

    def crashing(batch: Batch) -> Iterator[tuple[str, np.ndarray]]:
        for pair in grams(batch):
            if next(left, None) is None:
                raise OSError("no space left on device")
            yield pair

    store = MomentStore(tmp_path / "one")
    with pytest.raises(OSError, match="no space"):
        accumulate(store, WIDTHS, BATCHES, lambda _: crashing, checkpoint_seconds=0)
    found = accumulate(store, WIDTHS, BATCHES, lambda _: grams, checkpoint_seconds=0)
    whole = accumulate(MomentStore(tmp_path / "other"), WIDTHS, BATCHES, lambda _: grams)
    assert all(np.array_equal(found[name], whole[name]) for name in WIDTHS)
    assert not (tmp_path / "one" / "partial.safetensors").exists()


def test_a_moment_is_a_memory_map(tmp_path: Path) -> None:
    found = accumulate(MomentStore(tmp_path), WIDTHS, BATCHES, lambda _: grams)
    assert not found["x"].flags.writeable
    assert isinstance(found["x"].base.base, np.memmap)
