"""``.onnx_adapter`` files, judged by ONNX Runtime's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kronq.errors import UnsupportedError
from kronq.onnx.slots import flatbuffer as adapter_file
from kronq.onnx.slots.flatbuffer import InputStack
from kronq.onnx.slots.read_onnx_adapter import read_onnx_adapter
from kronq.onnx.slots.write_onnx_adapter import write_inputs
from tests.fuzzing import max_examples

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
stacks = st.lists(
    st.sampled_from(["<f4", "|u1", "<i8"]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=9))
    ),
    max_size=6,
).map(lambda found: [array for array in found if len(array)])


def inputs(names: list[str], array: np.ndarray) -> InputStack:
    return InputStack(names, array.shape[1:], array.dtype, lambda: [array])


@max_examples(150)
@given(found=stacks, data=st.data())
def test_onnx_runtime_reads_what_was_written(found, data, tmp_path_factory) -> None:
    count = sum(len(array) for array in found)
    told = data.draw(st.lists(names, min_size=count, max_size=count, unique=True))
    rest = iter(told)
    file = tmp_path_factory.mktemp("adapter") / "a.onnx_adapter"
    write_inputs([inputs([next(rest) for _ in array], array) for array in found], file)
    read = read_onnx_adapter(file)
    expected = dict(zip(told, (part for array in found for part in array), strict=True))
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()
    ort.LoraAdapter().Load(str(file))


def test_data_lies_on_cache_lines_and_layout_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(3, 5, 7)).astype(np.float32).swapaxes(1, 2)
    one = rng.integers(0, 255, (1, 33)).astype(np.uint8)
    file = tmp_path / "a.onnx_adapter"
    pieces = InputStack(["d"], (33,), one.dtype, lambda: [one[:, :5], one[:, 5:]])
    write_inputs([inputs(["a", "b", "c"], many), pieces], file)
    read = read_onnx_adapter(file)
    for name, array in zip("abcd", [*many, one[0]], strict=True):
        assert np.array_equal(read[name], array)
        assert file.read_bytes().index(array.tobytes()) % 64 == 0


def test_what_no_flat_buffer_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_file, "_LARGEST", 1000)
    with pytest.raises(UnsupportedError, match="too large; found 1,"):
        write_inputs([inputs(["a"], np.zeros((1, 250), np.float32))], tmp_path / "a")
