"""Coded layers as a stream and back, with step offsets and without."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kronq
from kronq.errors import FormatError
from kronq.model.adapter import Adapter
from kronq.packed import pack_adapter
from kronq.trellis.coded_matrix import EntropyCoded, MatrixLevels
from kronq.trellis.layer_shape import LayerShape, channel_count
from kronq.trellis.norm_classes import EMPTY_CHANNEL, NO_OFFSETS, StepOffsets, least_norm_class
from kronq.trellis.stream import encode_layers
from tests.formats.contents import layers_of_classes
from tests.fuzzing import max_examples

SIZE = st.integers(1, 12)
SCALE = st.sampled_from([1.0, -0.5, 3.0, 0.0])
STEP_OFFSETS = st.builds(
    StepOffsets, st.integers(-400, 400), st.integers(-40, 40), st.integers(-40, 40)
)


@st.composite
def layer_shapes(draw: st.DrawFn) -> LayerShape:
    """Draws a LoRA or a Kronecker adapter, with A and B whole or of two factors."""
    products = []
    for pairs in draw(st.sampled_from([(True,), (False, True), (False, False), (True, True)])):
        rows, cols, rank = draw(SIZE), draw(SIZE), draw(st.integers(1, 4))
        products.append(((rows, rank), (rank, cols)) if pairs else ((rows, cols),))
    return LayerShape(tuple(products), draw(SCALE))


@st.composite
def adapters(draw: st.DrawFn) -> tuple[Adapter, list[StepOffsets]]:
    found = draw(st.lists(layer_shapes(), min_size=1, max_size=6))
    found.sort(key=lambda each: each.products)  # one shape after another, as in a file
    offsets = draw(
        st.lists(STEP_OFFSETS | st.just(NO_OFFSETS), min_size=len(found), max_size=len(found))
    )
    classes = []
    for each in found:
        of_layer = []
        for product in each.products:
            least = least_norm_class(product)
            size = st.integers(least, least + 60) | st.just(EMPTY_CHANNEL)
            count = channel_count(product)
            of_layer.append(draw(st.lists(size, min_size=count, max_size=count)))
        classes.append(of_layer)
    names = {f"h.{i}": each for i, each in enumerate(found)}
    return layers_of_classes(names, classes, offsets), offsets


def levels_of(adapter: Adapter) -> list[MatrixLevels]:
    matrices = [m for delta in adapter.values() for m in delta.matrices]
    return [m.decode() for m in matrices if isinstance(m, EntropyCoded)]


@max_examples(60)
@given(adapters())
def test_what_is_packed_is_read(made: tuple[Adapter, list[StepOffsets]]) -> None:
    """Compares levels, norm classes, step offsets, and scales to the bit; packs the same bytes."""
    adapter, offsets = made
    codes = encode_layers([*adapter.values()])
    assert codes is not None
    assert codes.parameters.has_offsets == any(own != NO_OFFSETS for own in offsets)
    with tempfile.TemporaryDirectory() as folder:
        path = kronq.save(adapter, Path(folder, "a.safetensors"))
        again = kronq.load(path)
        assert pack_adapter(again) == path.read_bytes()
        for one, two in zip(levels_of(adapter), levels_of(again), strict=True):
            assert np.array_equal(one.levels, two.levels)
            assert np.array_equal(one.norm_classes, two.norm_classes)
            assert one.scale.tobytes() == two.scale.tobytes()
            assert (one.step, one.shifts, one.offsets) == (two.step, two.shifts, two.offsets)


@pytest.mark.parametrize("own", [(401, 0, 0), (0, -401, 0), (0, 0, 10**6)])
def test_step_offsets_that_could_not_be_read_are_not_written(own: tuple[int, int, int]) -> None:
    adapter = layers_of_classes(
        {"x": LayerShape((((4, 2), (2, 3)),), 1.0)}, [[[4, 5]]], [StepOffsets(*own)]
    )
    with pytest.raises(FormatError, match="too much or too little"):
        encode_layers([*adapter.values()])


def test_steps_are_left_out_where_no_layer_has_its_own() -> None:
    shapes = LayerShape((((4, 2), (2, 3)),), 1.0)
    for own, there in ((NO_OFFSETS, False), (StepOffsets(1), True)):
        data = pack_adapter(
            layers_of_classes({"x": shapes, "y": shapes}, [[[4, 5]]] * 2, [NO_OFFSETS, own])
        )
        assert (b"layer_steps" in data) == there
