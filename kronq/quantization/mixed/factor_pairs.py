"""Codes of factor pairs B1·B2: alternating fits with error feedback, least-squares scales.

In C where there is a compiler and no second moments, to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import call, library
from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.mixed.bit_allocation import U8
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.fitted_factor import FittedFactor
from kronq.quantization.mixed.gauges import FactorPair
from kronq.quantization.mixed.gptq import I64, round_with_feedback
from kronq.quantization.mixed.integer_descent import I16, coordinate_descent, fill_up
from kronq.quantization.mixed.least_squares import solve_ridge, with_ridge

_SWEEPS = 8
_CALIBRATED_SWEEPS = 4
"""With second moments each sweep costs more and gains less."""


@dataclass(frozen=True, eq=False)
class BatchCodes:
    """Codes of a batch of layers.

    Attributes:
        codes: Whole numbers [layers, channels, length] for each matrix.
        scale: [layers, channels], of the product of both.
        clipped: [layers] for each matrix: values beyond the outermost codes.
    """

    codes: tuple[F32 | I16, ...]
    scale: F64
    clipped: tuple[I64, ...]


def quantize_factor_pairs(
    pair: FactorPair, widths: tuple[U8, ...], left: ErrorMetric, right: ErrorMetric
) -> BatchCodes:
    """Quantizes both factors, each fitted in turn to the codes of the other.

    Args:
        pair: The factors, in their gauges.
        widths: [layers, channels] of left and right.
        left: Weight of errors of the left factor.
        right: Weight of errors of the right factor.
    """
    b1 = FittedFactor.rounded(pair.left, widths[0], left)
    b2 = FittedFactor.rounded(pair.right, widths[1], right)
    calibrated = left.factors is not None or right.factors is not None
    functions = library()
    if calibrated or functions is None:
        _fit(b1, b2, _CALIBRATED_SWEEPS if calibrated else _SWEEPS)
    else:
        sides = (argument for matrix in (b1, b2) for argument in _as_c(matrix))
        call(functions, "kronq_fit_pairs", *b1.codes.shape[:2], _SWEEPS, *sides)
    scale = b1.scale.astype(np.float64) * b2.scale
    lengths = pair.left.shape[2], pair.right.shape[2]
    codes = tuple(m.codes[..., :length] for m, length in zip((b1, b2), lengths, strict=True))
    return BatchCodes(codes, scale[..., 0], (b1.clipped, b2.clipped))


def _as_c(matrix: FittedFactor) -> tuple[int | NDArray[Any], ...]:
    """Returns a factor as C takes it, which changes its codes, scales and clipped."""
    assert matrix.fixed is not None  # noqa: S101
    low, high = (np.ascontiguousarray(limit, dtype=np.float64) for limit in matrix.limits)
    target = matrix.fixed.numbers, matrix.fixed.steps
    return matrix.codes.shape[2], *target, low, high, matrix.codes, matrix.scale, matrix.clipped


def _fit(b1: FittedFactor, b2: FittedFactor, sweeps: int) -> None:
    """Fits the factors in sweeps, to those of least error."""
    best = _BestCodes(b1, b2)
    for _ in range(sweeps):
        _refit_codes(b1, b2)
        _refit_codes(b2, b1)
        _refit_scales(b1, b2)
        best.update(b1, b2)
    for i, matrix in enumerate((b1, b2)):
        matrix.scale = best.scales[i]
        matrix.replace_codes(best.codes[i], best.clipped[i])


def _refit_codes(matrix: FittedFactor, other: FittedFactor) -> None:
    """Replaces the codes of one factor, those of the other fixed."""
    gram, cross = other.own_products(), other.target_products()
    if matrix.fixed is not None:
        matrix.replace_codes(
            *coordinate_descent(
                cross, gram, matrix.fixed, matrix.codes, matrix.scale, matrix.limits
            )
        )
        return
    assert matrix.metric.factors is not None  # noqa: S101
    target = np.linalg.solve(with_ridge(gram), cross @ matrix.target).astype(np.float32)
    codes, clipped = round_with_feedback(
        target,
        with_ridge(gram).astype(np.float32),
        matrix.metric.factors,
        matrix.scale,
        matrix.limits,
    )
    matrix.replace_codes(fill_up(codes), clipped)


def _refit_scales(b1: FittedFactor, b2: FittedFactor) -> None:
    """Fits the scales of all components by least squares, and stores them with B1."""
    gram, cross = _component_products(b1, b2)
    # Running sums, unlike sums, have one order of their terms.
    factor = solve_ridge(gram, cross.cumsum(axis=2)[..., -1])
    b1.scale = b1.scale * np.clip(factor[..., None], 0.5, 2).astype(np.float32)


def _component_products(b1: FittedFactor, b2: FittedFactor) -> tuple[F64, F64]:
    """Inner products of coded components with coded and with target ones, [layers, rank, rank]."""
    gram = b1.own_products() * b2.own_products()
    return gram, b1.target_products() * b2.target_products()


class _BestCodes:
    """Codes of least error so far, layer by layer: a sweep of feedback may raise the error."""

    def __init__(self, b1: FittedFactor, b2: FittedFactor) -> None:
        self._error = self._measure(b1, b2)
        self._take(b1, b2)

    def _take(self, b1: FittedFactor, b2: FittedFactor) -> None:
        self.codes = [b1.codes, b2.codes]
        self.scales = [b1.scale, b2.scale]
        self.clipped = [b1.clipped, b2.clipped]

    def update(self, b1: FittedFactor, b2: FittedFactor) -> None:
        error = self._measure(b1, b2)
        better = error < self._error
        self._error = np.where(better, error, self._error)
        if better.all():
            self._take(b1, b2)
            return
        for i, matrix in enumerate((b1, b2)):
            self.codes[i] = np.where(better[:, None, None], matrix.codes, self.codes[i])
            self.scales[i] = np.where(better[:, None, None], matrix.scale, self.scales[i])
            self.clipped[i] = np.where(better, matrix.clipped, self.clipped[i])

    def _measure(self, b1: FittedFactor, b2: FittedFactor) -> F64:
        """Returns the error of each layer, less the norm of its target."""
        gram, cross = _component_products(b1, b2)
        error: F64 = (gram - 2 * cross).reshape(len(gram), -1).cumsum(axis=1)[:, -1]
        return error
