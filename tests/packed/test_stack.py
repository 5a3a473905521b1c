"""Codes that stay packed until they are asked for: neighbours together, and few at a time."""

from __future__ import annotations

import numpy as np
import pytest

from kronq.packed.stack import AT_ONCE, Stack, StackedCodes

CODES = np.random.default_rng(0).integers(-8, 8, (5, 3, 4)).astype(np.int8)


@pytest.mark.parametrize(("size", "asked"), [(12, [(0, 5)]), (AT_ONCE // 2, [(0, 2), (2, 4)])])
def test_small_matrices_are_unpacked_with_their_neighbours(
    size: int, asked: list[tuple[int, int]]
) -> None:
    codes = np.resize(CODES, (5, 1, size))
    found = []

    def unpack(first: int, stop: int) -> np.ndarray:
        found.append((first, stop))
        return codes[first:stop].copy()

    stack = Stack(5, (1, size), unpack)
    for i in (0, 1, 2, 3):
        assert np.array_equal(np.asarray(StackedCodes(stack, i)), codes[i])
    assert found == asked


def test_large_matrices_are_unpacked_alone_and_not_kept() -> None:
    made = []

    def unpack(first: int, stop: int) -> np.ndarray:
        made.append((first, stop))
        return np.zeros((stop - first, 1, AT_ONCE), dtype=np.int8)

    codes = StackedCodes(Stack(3, (1, AT_ONCE), unpack), 1)
    assert codes.size == np.asarray(codes).size == np.asarray(codes).size
    assert made == [(1, 2), (1, 2)]


def test_what_is_handed_out_cannot_be_changed_for_others() -> None:
    stack = Stack(5, (3, 4), lambda first, stop: CODES[first:stop].copy())
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(StackedCodes(stack, 2))[0, 0] = 1
    own = np.array(StackedCodes(stack, 2))
    own += 1
    assert np.array_equal(np.asarray(StackedCodes(stack, 2)), CODES[2])
    assert np.asarray(StackedCodes(stack, 2), dtype=np.float32).dtype == np.float32
