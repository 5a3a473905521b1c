"""Files written tensor by tensor, against the safetensors library."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from kronq.io.tensor_writer import TensorParts, tensor_bytes, tensors_size
from tests.fuzzing import max_examples

DTYPES = [
    *map(np.dtype, ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "?")),
    *map(np.dtype, (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)),
]
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)


@st.composite
def arrays(draw: st.DrawFn) -> NDArray[Any]:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    random = np.random.default_rng(draw(st.integers(0, 9)))
    return np.asarray(random.integers(0, 2, shape)).astype(draw(st.sampled_from(DTYPES)))


@max_examples(100)
@given(tensors=st.dictionaries(NAMES, arrays(), max_size=6), text=NAMES)
def test_the_bytes_are_those_of_the_library(tensors: dict[str, NDArray[Any]], text: str):
    metadata = {"kronq": text}
    expected = save(tensors, metadata)
    assert b"".join(tensor_bytes(tensors, metadata)) == expected
    assert tensors_size(tensors, metadata) == len(expected)


def test_every_dtype_is_in_its_place():
    tensors = {f"{i % 7}{dtype}": np.ones(3, dtype) for i, dtype in enumerate(DTYPES)}
    assert b"".join(tensor_bytes(tensors, {})) == save(tensors)


def test_parts_are_made_when_they_are_written():
    made: list[int] = []

    def make():
        for part in range(3):
            made.append(part)
            yield np.full((1, 5), part, np.float32)

    tensors = {
        "parts": TensorParts(np.dtype(np.float32), (3, 5), make),
        "turned": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    }
    assert tensors_size(tensors, {}) > 60
    assert made == []
    whole = {"parts": np.repeat(np.arange(3, dtype=np.float32), 5).reshape(3, 5)}
    whole["turned"] = np.ascontiguousarray(tensors["turned"])
    assert b"".join(tensor_bytes(tensors, {})) == save(whole)


def test_too_few_values_are_noticed():
    short = TensorParts(np.dtype(np.float32), (3, 5), lambda: [np.zeros(10, np.float32)])
    with pytest.raises(AssertionError):
        b"".join(tensor_bytes({"short": short}, {}))
