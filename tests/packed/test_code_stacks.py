"""Codes stay packed until they are used: small stacks unpack at once, large ones by layer."""

from __future__ import annotations

import numpy as np
import pytest

from kronq.packed.code_stacks import SMALL_STACK, CodeStack, StackedCodes

CODES = np.random.default_rng(0).integers(-8, 8, (5, 3, 4)).astype(np.int8)


@pytest.mark.parametrize(
    ("size", "unpacked"),
    [(12, [(0, 5)]), (SMALL_STACK // 5 + 1, [(3, 4), (0, 1), (3, 4), (1, 3), (4, 5), (2, 3)])],
)
def test_small_stacks_are_unpacked_at_once_and_of_large_ones_nothing_is_kept(
    size: int, unpacked: list[tuple[int, int]]
) -> None:
    codes = np.resize(CODES, (5, 1, size))
    ranges = []

    def unpack(first: int, stop: int) -> np.ndarray:
        ranges.append((first, stop))
        return codes[first:stop].copy()

    stack = CodeStack(5, (1, size), unpack)
    for layer in (3, 0, 3):
        assert np.array_equal(np.asarray(StackedCodes(stack, layer)), codes[layer])
    assert np.array_equal(stack.select(slice(1, 3)), codes[1:3])
    assert np.array_equal(stack.select([4, 2]), codes[[4, 2]])
    assert ranges == unpacked


def test_what_is_handed_out_cannot_be_changed_for_others() -> None:
    stack = CodeStack(5, (3, 4), lambda first, stop: CODES[first:stop].copy())
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(StackedCodes(stack, 2))[0, 0] = 1
    own = np.array(StackedCodes(stack, 2))
    own += 1
    assert np.array_equal(np.asarray(StackedCodes(stack, 2)), CODES[2])
    assert np.asarray(StackedCodes(stack, 2), dtype=np.float32).dtype == np.float32
