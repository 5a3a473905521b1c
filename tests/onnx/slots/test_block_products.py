"""Products with blocks of 4 bits by the compiled operator, against gguf's weights."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from kronq.compiled.find import compiled_library
from kronq.errors import UnsupportedError
from kronq.onnx.slots.block_products import pack_panels
from kronq.onnx.slots.kernel import PROGRAM
from tests.onnx.slots.test_compiled_operator import opened

gguf = pytest.importorskip("gguf")
try:
    compiled_library(PROGRAM)
except UnsupportedError as error:
    pytest.skip(str(error), allow_module_level=True)


def operator(count: int, threads: int = 1, rank: int = 3) -> ort.InferenceSession:
    weights, outs = [f"w{i}" for i in range(count)], [f"y{i}" for i in range(count)]
    node = helper.make_node(f"BlockProducts_{count}", ["x", *weights], outs, domain="kronq")
    tensor, floats, byte = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.UINT8
    given = [tensor("x", floats, [None] * rank), *(tensor(w, byte, [None] * 3) for w in weights)]
    return opened(
        helper.make_graph([node], "one", given, [tensor(y, floats, None) for y in outs]), threads
    )


def q4_1(rng: np.random.Generator, d_out: int, d_in: int) -> tuple[np.ndarray, ...]:
    """Returns panels, the weight [d_out, d_in] that gguf dequantizes, and its blocks' middles."""
    kind = gguf.GGMLQuantizationType.Q4_1
    raw = gguf.quants.quantize(rng.standard_normal((d_out, d_in), np.float32) + 0.3, kind)
    blocks = raw.reshape(d_out, d_in // 32, 20)
    halves = np.ascontiguousarray(blocks[..., :4]).view(np.float16)
    nibbles = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1)
    codes = nibbles[..., ::2] | nibbles[..., 1::2] << 4
    panels = pack_panels(codes, halves[..., 0], halves[..., 1])
    middle = halves[..., 1].astype(np.float64) + 8 * halves[..., 0].astype(np.float64)
    offsets = np.repeat(middle, 32, axis=-1)
    return panels, gguf.quants.dequantize(raw, kind).astype(np.float64), offsets


def rounded(x: np.ndarray) -> np.ndarray:
    """Returns x rounded to int8 in blocks of 32, in float64."""
    blocks = x.reshape(*x.shape[:-1], x.shape[-1] // 32, 32)
    most = np.abs(blocks).max(-1, keepdims=True)
    codes = np.rint(blocks * (np.float32(127) / most))
    return (codes.astype(np.float64) * (most.astype(np.float64) / 127)).reshape(x.shape)


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 70])
@pytest.mark.parametrize(("d_in", "widths"), [(576, [576, 192, 192]), (32, [16]), (96, [272] * 4)])
def test_sums_are_those_of_the_weights(tokens, d_in, widths) -> None:
    rng = np.random.default_rng(tokens)
    x = rng.normal(size=(1, tokens, d_in)).astype(np.float32)
    layers = [q4_1(rng, width, d_in) for width in widths]
    feeds = {"x": x, **{f"w{i}": panels for i, (panels, _, _) in enumerate(layers)}}
    one, two = (operator(len(widths), threads).run(None, feeds) for threads in (1, 2))
    for y, again, (_, weight, offsets) in zip(one, two, layers, strict=True):
        expected = rounded(x) @ (weight - offsets).T + x.astype(np.float64) @ offsets.T
        sizes = np.abs(x) @ (np.abs(weight) + 2 * np.abs(offsets)).T
        assert (np.abs(y - expected) <= 1e-6 * sizes).all()
        assert np.array_equal(y, again)
        if tokens:  # a token has the bits that it has alone
            alone = operator(len(widths)).run(None, feeds | {"x": x[:, -1:]})
            assert np.array_equal(alone[0], one[0][:, -1:])


def test_whole_numbers_are_exact() -> None:
    """Activations that are int8 already, in blocks whose largest is 127."""
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (1, 5, 96)).astype(np.float32)
    x[..., ::32] = 127
    panels, weight, _ = q4_1(rng, 48, 96)
    (y,) = operator(1).run(None, {"x": x, "w0": panels})
    expected = x.astype(np.float64) @ weight.T
    assert np.abs(y - expected).max() <= 2e-6 * (np.abs(x) @ np.abs(weight).T).max()


def test_what_is_not_finite_stays_so() -> None:
    panels, _, _ = q4_1(np.random.default_rng(0), 16, 64)
    for value in (np.nan, np.inf):
        x = np.ones((1, 2, 64), np.float32)
        x[0, 0, 40] = value
        (y,) = operator(1).run(None, {"x": x, "w0": panels})
        assert not np.isfinite(y[0, 0]).any()
        assert np.isfinite(y[0, 1]).all()


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        ((1, 2, 48), (1, 1, 320), "whole blocks"),
        ((1, 2, 64), (1, 1, 320), "another layer"),
        ((1, 2, 64), (1, 2, 300), "another layer"),
        ((1, 2, 0), (1, 0, 320), "whole blocks"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, weight, message) -> None:
    feeds = {"x": np.zeros(x, np.float32), "w0": np.zeros(weight, np.uint8)}
    with pytest.raises(Exception, match=message):
        operator(1).run(None, feeds)
