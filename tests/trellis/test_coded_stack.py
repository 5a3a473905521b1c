"""Coded matrices of many layers, dequantized together as each by itself."""

from __future__ import annotations

import numpy as np

from kronq import Compact, quantize
from kronq.model.stacks import stack_layers
from kronq.trellis.coded_matrix import CodedStack
from kronq.trellis.reconstruction import _points, shift_levels
from kronq.trellis.stream import stream_shares
from tests import adapters


def test_a_stack_equals_its_matrices():
    adapter = quantize(adapters.adapter(), Compact(bpw=4))
    for stack in stack_layers(dict(adapter)):
        for apart in (*stack.a, *stack.b):
            together = CodedStack(apart.matrices)
            assert np.array_equal(together.float32(), apart.float32())
            assert np.array_equal(together.float32([0]), apart.float32([0]))


def test_points_are_looked_up_or_computed():
    levels = np.array([[-1024, -3, 0, 1, 2, 1024], [5, 6, 7, 8, -1, -2]], np.int32)
    for more in (0, 70_000):  # the second is beyond the table
        given = levels + np.int32(more)
        assert np.array_equal(shift_levels(given, (20, 10, -5)), _points(given, (20, 10, -5)))
    assert shift_levels(np.zeros((0, 3), np.int32), (1, 2, 3)).shape == (0, 3)


def test_shares_of_very_many_matrices():
    """In one pass: 300,000 would take minutes otherwise."""
    shares = stream_shares([7] * 300_000, 1_000_001)
    assert sum(shares) == 1_000_001
    assert {3, 4} == {*shares}
