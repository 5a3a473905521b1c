"""The record of an adapter: every kind of adapter and code, read back by another reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kronq
from kronq.errors import FormatError, KronqError, MismatchError, UnsupportedError
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float, Quantized, with_widths
from kronq.onnx.slots.record import (
    adapter_record,
    check_record,
    layer_id,
    plan_record,
    read_record,
    record_tag,
)
from kronq.onnx.slots.record.layout import rows_in_word
from kronq.onnx.slots.record.words import pack_in_numpy, put_words, unpack_words
from tests.adapters import adapter, dense, kron
from tests.fuzzing import max_examples

METHODS = {
    "as it came": None,
    "float16": kronq.Float16(),
    **{f"native {bits}": kronq.Native(bits=bits) for bits in (2, 3, 4, 8)},
    **{f"{bits} bits": kronq.Uniform(bits, "rtn") for bits in (2, 3, 4, 8)},
    "balanced": kronq.Uniform(4),
    "by row": kronq.Uniform(4, "rtn", axis="row"),
    "in groups": kronq.Uniform(4, "rtn", group_size=8),
    "compact": kronq.Compact(bpw=6),
}


@pytest.mark.parametrize("packed", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("method", METHODS)
def test_a_record_is_the_adapter(method: str, packed: bool, tmp_path: Path) -> None:
    config, whole = METHODS[method], adapter()
    if config is not None:
        whole = kronq.quantize(whole, config)
        if packed:
            kronq.save(whole, tmp_path / "a.safetensors")
            whole = kronq.load(tmp_path / "a.safetensors")
    found = read_record(adapter_record(whole))
    assert found.keys() == {layer_id(name) for name in whole}
    for name, delta in whole.items():
        exact, own = dense(delta), found[layer_id(name)].dense()
        if delta.shape != delta.full_shape:  # its exact LoRA, rounded to float32
            assert np.abs(own - exact).max() <= 2e-6 * np.abs(exact).max()
        else:  # nothing is rounded but A times the scale
            np.testing.assert_allclose(own, exact, rtol=2e-6, atol=1e-6 * np.abs(exact).max())


def test_codes_are_kept_as_they_are() -> None:
    packed = kronq.quantize(adapter(kinds=("kron", "lora")), kronq.Native(bits=4))
    found = read_record(adapter_record(packed))
    for name, delta in packed.items():
        layer, (b1, b2) = found[layer_id(name)], delta.b.matrices
        assert isinstance(b1, Quantized) and isinstance(b2, Quantized)  # noqa: PT018
        assert layer.layout.b1 in range(2, 9)
        assert np.array_equal(layer.b1, np.asarray(b1.codes).T)
        assert np.array_equal(layer.b2, np.asarray(b2.codes).T)


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_floats_are_kept_in_their_type(dtype) -> None:
    rng = np.random.default_rng(0)
    b = [Float(rng.normal(size=shape).astype(dtype)) for shape in ((9, 3), (3, 7))]
    one = Adapter({"q": Delta(ONE, Product(*b), -2.0, (9, 7))})
    layer = read_record(adapter_record(one))[layer_id("q")]
    assert (layer.b1.dtype, layer.b2.dtype) == (dtype, dtype)
    assert np.array_equal(layer.b1, b[0].array.T)
    assert layer.a == -2


@max_examples(200)
@given(
    st.sampled_from([2, 3, 4, 5, 6, 7, 8]),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
def test_words_hold_codes_of_every_width(bits, rows, cols, more, seed) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-(1 << bits - 1), 1 << bits - 1, (2, rows, cols)).astype(np.int8)
    words = pack_in_numpy(codes, bits, cols + more)
    turned = np.ascontiguousarray(codes.swapaxes(1, 2)).swapaxes(1, 2)
    types, at = np.full(2, bits), 32 + words[0].nbytes * np.array([1, 0])
    for each in (codes, turned):
        parts = np.zeros(32 + words.nbytes, np.uint8)
        assert put_words(each, types, cols + more, parts, at)
        assert np.array_equal(parts[32:].view("<u4"), words[::-1].reshape(-1))
    assert words.shape == (2, -(-rows // rows_in_word(bits)), cols + more)
    for word, matrix in zip(words, codes, strict=True):
        assert np.array_equal(unpack_words(word, bits, rows, cols), matrix)
        row, column = rng.integers(rows), rng.integers(cols)  # by hand
        index, place = divmod(int(row), rows_in_word(bits))
        field = int(word[index, column]) >> bits * place & (1 << bits) - 1
        assert (field - (1 << bits) if field >> bits - 1 else field) == matrix[row, column]


@pytest.mark.parametrize("compiled", ["0", "1"])
def test_words_hold_floats_and_tell_which_are_not_finite(compiled, monkeypatch) -> None:
    monkeypatch.setenv("KRONQ_COMPILED", compiled)
    rng = np.random.default_rng(1)
    for dtype, kind in ((np.float32, 32), (np.float16, 16)):
        values = rng.standard_normal((2, 3, 5)).astype(dtype).swapaxes(1, 2)
        words = pack_in_numpy(values, kind, 8)
        at, parts = words[0].nbytes * np.arange(2), np.zeros(words.nbytes, np.uint8)
        assert put_words(values, np.full(2, kind), 8, parts, at)
        assert np.array_equal(parts, words.reshape(-1).view(np.uint8))
        for bad in (np.nan, np.inf, -np.inf):
            values[1, 4, 2] = bad
            assert not put_words(values, np.full(2, kind), 8, np.zeros_like(parts), at)


def test_layers_of_a_stack_have_the_widths_of_their_own_codes(tmp_path) -> None:
    """One wide layer makes no other layer's part larger."""
    rng = np.random.default_rng(5)
    layers = {}
    for i, width in enumerate([4, 8, 4, 2, 8]):
        codes = rng.integers(-(1 << width - 1), 1 << width - 1, (2, 16, 16)).astype(np.int8)
        widths = np.full(16, width, np.uint8)
        left, right = (with_widths(c, widths, 1 - side) for side, c in enumerate(codes))
        layers[f"layers.{i}.q"] = Delta(ONE, Product(left, right), 0.5, (16, 16))
    kronq.save(Adapter(layers), tmp_path / "five.safetensors")
    read = kronq.load(tmp_path / "five.safetensors")
    found = read_record(adapter_record(read))
    types = [found[layer_id(name)].layout.b1 for name in layers]
    assert types == [4, 8, 4, 2, 8]
    for name, delta in layers.items():
        assert np.array_equal(found[layer_id(name)].dense(), dense(delta))


def test_a_record_in_pieces_has_its_size_and_tag(monkeypatch) -> None:
    monkeypatch.setattr("kronq.onnx.slots.record.plan._TOGETHER", 1)
    plan = plan_record(adapter())
    chunks = list(plan.chunks(tag=2**64 - 1))
    assert len(chunks) == 1 + len(plan.ids)
    whole = np.concatenate(chunks)
    assert len(whole) == plan.size
    assert record_tag(whole) == 2**64 - 1
    monkeypatch.undo()
    assert np.array_equal(whole[64:], adapter_record(adapter())[64:])


def test_a_record_does_not_fit_another_model() -> None:
    whole = adapter(layers=1, kinds=("kron", "lora"))
    record = adapter_record(whole)
    shapes = {name: delta.shape for name, delta in whole.items()}
    check_record(record, shapes | {"more": (3, 4)})
    name = "model.layers.0.lora"
    with pytest.raises(MismatchError, match="no slot for"):
        check_record(record, {n: s for n, s in shapes.items() if n != name})
    with pytest.raises(MismatchError, match=f"{name}: the slot has another shape"):
        check_record(record, shapes | {name: (24, 21)})
    with pytest.raises(MismatchError, match="1 of 2 layers have no slot"):
        adapter_record(whole, {"model.layers.0.kron": (96, 60)})


def test_what_no_record_can_hold_is_refused() -> None:
    rng = np.random.default_rng(0)
    conv = replace(kron(rng), kernel=(2, 2))
    with pytest.raises(UnsupportedError, match="no convolutions"):
        adapter_record(Adapter({"c": conv}))
    large = Adapter({"q": replace(kron(rng), scale=1e38 * 1e3)})
    with pytest.raises(FormatError, match="too large for float32"):
        adapter_record(large)
    bad = kron(rng)
    bad.b.left.array[0, 0] = np.nan
    with pytest.raises(FormatError, match="not finite"):
        adapter_record(Adapter({"q": bad}))


@max_examples(300)
@given(st.data())
def test_damaged_records_are_refused_or_read(data) -> None:
    record = RECORD.copy()
    place = data.draw(st.integers(0, 255) | st.integers(0, len(record) - 1))
    record[place] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([len(record), 0, 8, 63, 64, 128, len(record) - 64]))
    try:
        read_record(record[:length])
    except KronqError as error:
        assert "record" in str(error)  # noqa: PT017 - most of them


RECORD = adapter_record(adapter(layers=1))
