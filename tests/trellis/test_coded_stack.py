"""Coded matrices of many layers, dequantized together as each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from kronq import Compact, load, quantize, save
from kronq.trellis.coded_stacks import CodedStack
from kronq.trellis.reconstruction import _points, shift_levels
from kronq.trellis.stream import stream_shares
from tests import adapters


@pytest.mark.parametrize("compiled", ["0", "1"])
def test_a_stack_equals_its_matrices(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("KRONQ_COMPILED", compiled)
    made = quantize(adapters.adapter(), Compact(bpw=4))
    save(made, tmp_path / "small.safetensors")
    read = load(tmp_path / "small.safetensors")
    assert isinstance(read.stacks[0].b[0], CodedStack)
    for stack in read.stacks:
        layers = [made[name] for name in stack.names]
        assert (
            stack.nbytes()
            == sum(layer.nbytes for layer in layers)
            == stack.nbytes(list(range(len(layers))))
        )
        for stacks, product in ((stack.a, "a"), (stack.b, "b")):
            for side, together in enumerate(stacks):
                apart = [getattr(layer, product).matrices[side] for layer in layers]
                assert np.array_equal(together.float32(), [m.float32() for m in apart])
                assert np.array_equal(together.float32([0])[0], apart[0].float32())
                for number, matrix in enumerate(apart):
                    found, known = together.matrix(number).decode(), matrix.decode()
                    assert np.array_equal(found.levels, known.levels)
                    assert np.array_equal(found.norm_classes, known.norm_classes)
                    assert np.array_equal(found.scale, known.scale)


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
