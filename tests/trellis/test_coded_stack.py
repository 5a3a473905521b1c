"""Coded matrices of many layers, dequantized together as each by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kronq import Compact, load, quantize, save
from kronq.compiled import library
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


def test_numbers_are_put_into_a_larger_array(tmp_path):
    """In rows or columns that are apart, and what is not finite is told."""
    save(quantize(adapters.adapter(), Compact(bpw=4)), tmp_path / "small.safetensors")
    if library() is None:
        pytest.skip("C does it")
    for stack in load(tmp_path / "small.safetensors").stacks:
        for coded in stack.b:
            rows, cols = coded.shape
            size, at = rows * (cols + 3), np.arange(len(stack.names))[::-1] * (cols + 3) * rows
            for row, col in ((cols + 3, 1), (1, rows)):
                out = np.zeros(size * len(stack.names), np.float32)
                assert coded.put_float32(slice(None), out, at, row, col)
                places = at[:, None, None] + row * np.arange(rows)[:, None] + col * np.arange(cols)
                assert np.array_equal(out[places], coded.float32())
                assert np.count_nonzero(out) == np.count_nonzero(coded.float32())
            levels = coded.decode()
            huge = replace(levels, scales=np.full_like(levels.scales, np.inf))
            all_zero = levels.begins.max() < 0
            assert huge.put_float32(slice(None), out, at, row, col) == all_zero


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
