"""Rounding to a grid: values as ONNX dequantizes them, scales of least squared error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kronq.compiled import library
from kronq.compiled.library import SWITCH
from kronq.quantization.grid import Fit, quantize_matrices, quantize_matrix
from kronq.quantization.scale_search import fit_float16_scales, fit_scales
from tests import onnx_dequantize as onnx
from tests.fuzzing import max_examples

ALL_BITS = [8, 4, 3, 2]
FITS: tuple[Fit, ...] = ("max", "mse")

needs_compiler = pytest.mark.skipif(library() is None, reason="needs a C compiler")


def normal(rows: int, cols: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)


@pytest.mark.parametrize("runtime", [onnx.by_onnx, onnx.by_onnxruntime])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [None, 16, 32])
def test_values_are_what_dequantize_linear_computes(
    group_size: int | None, bits: int, axis: int, runtime: object
) -> None:
    """Per channel and in groups, with a short last group too."""
    q = quantize_matrix(normal(48, 72), bits, axis=axis, group_size=group_size)
    assert np.array_equal(runtime(onnx.of(q)), q.float32())  # type: ignore[operator]


@pytest.mark.parametrize("fit", ["max", "mse"])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_codes_stay_in_range(bits: int, fit: object) -> None:
    codes = np.asarray(quantize_matrix(normal(64, 33), bits, axis=0, fit=fit).codes)  # type: ignore[arg-type]
    assert codes.min() >= -(2 ** (bits - 1))
    assert codes.max() <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize("bits", ALL_BITS)
def test_rounding_to_the_maximum_is_off_by_half_a_step_at_most(bits: int) -> None:
    x = normal(8, 50)
    q = quantize_matrix(x, bits, axis=0, fit="max")
    # Storing the scale in float16 moves the largest value by 2^-11 of itself.
    step = q.scale.astype(np.float32)[:, None]
    assert (np.abs(q.float32() - x) <= step / 2 + np.abs(x) * 2.0**-10).all()


@max_examples(60)
@given(
    bits=st.sampled_from(ALL_BITS),
    axis=st.sampled_from([0, 1]),
    group_size=st.none() | st.integers(2, 40),
    seed=st.integers(0, 10**6),
    spread=st.floats(-3, 3),
    heavy=st.booleans(),
)
@example(bits=2, axis=0, group_size=None, seed=240, spread=3.0, heavy=True)  # beyond float16
def test_fitting_never_loses_to_the_maximum(
    bits: int, axis: int, group_size: int | None, seed: int, spread: float, heavy: bool
) -> None:
    """In every channel of uniform or heavy-tailed values of any magnitude."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_t(2, (12, 30)) if heavy else rng.uniform(-1, 1, (12, 30))) * 10**spread
    x = x.astype(np.float32)
    errors = {}
    for fit in ("max", "mse"):
        q = quantize_matrix(x, bits, axis=axis, group_size=group_size, fit=fit)  # type: ignore[arg-type]
        errors[fit] = ((q.float32() - x).astype(np.float64) ** 2).sum(axis=1 - axis)
    floor = 1e-6 * (x.astype(np.float64) ** 2).sum(axis=1 - axis)
    assert (errors["mse"] <= errors["max"] * (1 + 1e-5) + floor * 1e-2).all()


@pytest.mark.parametrize("length", [48, 144, 768])
@pytest.mark.parametrize("shape", ["normal", "uniform"])
@pytest.mark.parametrize(("bits", "short"), [(8, 1.4), (4, 0.15), (3, 0.1), (2, 0.1)])
def test_fitted_scales_are_close_to_the_best_of_a_thousand(
    bits: int, short: float, shape: str, length: int
) -> None:
    """Within ``short`` dB of an exhaustive search, for channels of typical length."""
    rng = np.random.default_rng(0)
    x = {"normal": rng.normal, "uniform": rng.uniform}[shape](-1, 1, (16, length))
    x = x.astype(np.float32)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    best = 0.0
    for row in x.astype(np.float64):
        steps = np.abs(row).max() / high * np.linspace(0.1, 1.1, 1000)[:, None]
        codes = np.clip(np.rint(row / steps), low, high)
        best += float(((row - codes * steps) ** 2).sum(1).min())
    found = float(((quantize_matrix(x, bits, axis=0).float32() - x) ** 2).sum())
    assert 10 * np.log10(found / best) <= short


@pytest.mark.parametrize("fit", ["max", "mse"])
def test_zero_channels_stay_zero(fit: object) -> None:
    """PEFT initializes one factor to zero: nothing may divide by its norm."""
    x = normal(6, 10)
    x[[0, 3]] = 0
    q = quantize_matrix(x, 4, axis=0, fit=fit)  # type: ignore[arg-type]
    assert not q.float32()[[0, 3]].any()
    assert np.isfinite(q.float32()).all()
    zeros = quantize_matrix(np.zeros((3, 5), np.float32), 2, axis=1, fit=fit)  # type: ignore[arg-type]
    assert not zeros.float32().any()


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("size", [1e-3, 6e4])
def test_values_near_the_ends_of_float16(bits: int, size: float) -> None:
    x = normal(4, 64) / np.float32(5) * np.float32(size)
    q = quantize_matrix(x, bits, axis=0)
    assert np.isfinite(q.scale).all()
    assert np.linalg.norm(q.float32() - x) < 0.5 * np.linalg.norm(x)


@pytest.mark.parametrize(
    ("axis", "group_size", "scale"),
    [(0, None, (10,)), (1, None, (23,)), (0, 8, (10, 3)), (1, 8, (2, 23)), (0, 23, (10,))],
)
def test_a_group_size_need_not_divide(
    axis: int, group_size: int | None, scale: tuple[int, ...]
) -> None:
    """The last group is short; one group as long as the channel is a channel scale."""
    x = normal(10, 23)
    q = quantize_matrix(x, 4, axis=axis, group_size=group_size)
    assert q.scale.shape == scale
    assert q.codes.shape == x.shape
    if group_size == 8:
        last = quantize_matrix(x[:, 16:] if axis == 0 else x[8:], 4, axis=axis)
        whole = q.float32()
        assert np.array_equal(whole[:, 16:] if axis == 0 else whole[8:], last.float32())


def test_exact_values_are_kept_exactly() -> None:
    """A matrix that lies on a grid comes back exactly."""
    codes = np.random.default_rng(0).integers(-7, 8, (5, 40))
    codes[:, 0] = 7
    x = (codes * 0.25).astype(np.float32)
    assert np.array_equal(quantize_matrix(x, 4, axis=0, fit="max").float32(), x)
    assert np.array_equal(quantize_matrix(x, 4, axis=0, fit="mse").float32(), x)


@needs_compiler
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, of squares beyond float32
@max_examples(60)
@given(
    rows=st.integers(1, 20),
    length=st.integers(1, 200),
    bits=st.integers(2, 8),
    every=st.sampled_from([1, 3]),
    size=st.sampled_from([0.0, 1e-42, 1e-6, 1.0, 1e6, 1e30]),
    ties=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_c_and_numpy_alike(
    rows: int, length: int, bits: int, every: int, size: float, ties: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, length)) * size * rng.integers(0, 2, (rows, 1))
    x = (np.rint(x * 4) / 4 if ties else x).astype(np.float32)

    def everything() -> list[NDArray[np.generic]]:
        quantized = [quantize_matrices(x[None], bits, axis=0, fit=fit).matrix(0) for fit in FITS]
        codes = [np.asarray(each.codes) for each in quantized]
        scales = [each.scale for each in quantized if each.scale is not None]
        counts = [np.array(each.clipped) for each in quantized]
        fitted = fit_float16_scales(x, bits, every=every)
        return [*codes, *scales, *counts, *fitted, fit_scales(x, bits)]

    by_c = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        by_numpy = everything()
    for one, two in zip(by_c, by_numpy, strict=True):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two, equal_nan=True)
