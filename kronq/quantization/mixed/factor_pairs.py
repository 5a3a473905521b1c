"""Codes of factor pairs B1·B2: alternating fits with error feedback, least-squares scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.grid import fit_scales
from kronq.quantization.mixed.bit_allocation import U8
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.gauges import FactorPair
from kronq.quantization.mixed.gptq import (
    I64,
    CodeRange,
    clip_codes,
    code_range,
    coordinate_descent,
    round_unclipped,
    round_with_feedback,
)

_SWEEPS = 8
_CALIBRATED_SWEEPS = 4
"""With second moments each sweep costs more and gains less."""
_RIDGE = 1e-7


@dataclass
class RoundedMatrix:
    """A matrix of a batch of layers, with its current codes.

    Attributes:
        target: Values to be coded, [layers, channels, length].
        metric: Weight of its errors.
        limits: Range of the codes.
        scale: [layers, channels, 1].
        codes: [layers, channels, length].
        clipped: [layers]: values, error feedback included, beyond the outermost codes.
    """

    target: F32
    metric: ErrorMetric
    limits: CodeRange
    scale: F32
    codes: F32
    clipped: I64

    @property
    def values(self) -> F32:
        return self.codes * self.scale


@dataclass(frozen=True, eq=False)
class BatchCodes:
    """Codes of a batch of layers.

    Attributes:
        codes: [layers, channels, length] for each matrix.
        scale: [layers, channels], of the product of both.
        clipped: [layers] for each matrix: values beyond the outermost codes.
    """

    codes: tuple[F32, ...]
    scale: F64
    clipped: tuple[I64, ...]


def round_channels(target: F32, widths: U8, metric: ErrorMetric) -> RoundedMatrix:
    """Rounds every channel by itself, at its scale of least squared error."""
    scale = np.zeros((*widths.shape, 1), dtype=np.float32)
    for bits in np.unique(widths[widths > 0]):
        channels = widths == bits
        scale[channels, 0] = fit_scales(target[channels], int(bits))
    limits = code_range(widths)
    codes, clipped = clip_codes(round_unclipped(target, scale), limits)
    return RoundedMatrix(target, metric, limits, scale, codes, clipped)


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
    b1 = round_channels(pair.left, widths[0], left)
    b2 = round_channels(pair.right, widths[1], right)
    best = _BestCodes(b1, b2)
    calibrated = left.factors is not None or right.factors is not None
    for _ in range(_CALIBRATED_SWEEPS if calibrated else _SWEEPS):
        _refit_codes(b1, b2)
        _refit_codes(b2, b1)
        _refit_scales(b1, b2)
        best.update(b1, b2)
    scale = best.scales[0].astype(np.float64) * best.scales[1]
    return BatchCodes(best.codes, scale[..., 0], best.clipped)


def _refit_codes(matrix: RoundedMatrix, other: RoundedMatrix) -> None:
    """Replaces the codes of one factor, those of the other fixed."""
    values = other.values
    gram = _own_products(other, values)
    cross = other.metric.inner(values, other.target) @ matrix.target
    if matrix.metric.factors is None:
        matrix.codes, matrix.clipped = coordinate_descent(
            cross.astype(np.float32),
            gram.astype(np.float32),
            matrix.codes,
            matrix.scale,
            matrix.limits,
            sweeps=1,
        )
        return
    target = np.linalg.solve(_regularized(gram), cross).astype(np.float32)
    matrix.codes, matrix.clipped = round_with_feedback(
        target,
        _regularized(gram).astype(np.float32),
        matrix.metric.factors,
        matrix.scale,
        matrix.limits,
    )


def _refit_scales(b1: RoundedMatrix, b2: RoundedMatrix) -> None:
    """Fits the scales of all components by least squares, and stores them with B1."""
    gram, cross = _component_products(b1, b2)
    factor = np.linalg.solve(_regularized(gram), cross.sum(axis=2)[..., None])
    b1.scale = b1.scale * np.clip(factor, 0.5, 2).astype(np.float32)


def _component_products(b1: RoundedMatrix, b2: RoundedMatrix) -> tuple[F64, F64]:
    """Inner products of coded components with coded and with target ones, [layers, rank, rank]."""
    v1, v2 = b1.values, b2.values
    gram = _own_products(b1, v1) * _own_products(b2, v2)
    cross = b1.metric.inner(v1, b1.target) * b2.metric.inner(v2, b2.target)
    return gram, cross


def _own_products(matrix: RoundedMatrix, values: F32) -> F64:
    """Returns the inner products of values with themselves, [layers, rank, rank].

    BLAS adds up a matrix times its own transpose in an order of its own; with a copy it takes the
    one that files were always made with.
    """
    return matrix.metric.inner(values, values.copy())


def _regularized(gram: F64) -> F64:
    size = gram.shape[1]
    mean = np.einsum("lii->l", gram)[:, None, None] / size
    ridge: F64 = gram + np.eye(size) * (_RIDGE * mean + 1e-30)
    return ridge


class _BestCodes:
    """Codes of least error so far, layer by layer: a sweep of feedback may raise the error."""

    def __init__(self, b1: RoundedMatrix, b2: RoundedMatrix) -> None:
        self._target_norm = np.einsum(
            "lij,lij->l",
            b1.metric.inner(b1.target, b1.target),
            b2.metric.inner(b2.target, b2.target),
        )
        self._error = self._measure(b1, b2)
        self.codes = (b1.codes.copy(), b2.codes.copy())
        self.scales = (b1.scale.copy(), b2.scale.copy())
        self.clipped = (b1.clipped.copy(), b2.clipped.copy())

    def update(self, b1: RoundedMatrix, b2: RoundedMatrix) -> None:
        error = self._measure(b1, b2)
        better = error < self._error
        self._error = np.where(better, error, self._error)
        for i, matrix in enumerate((b1, b2)):
            self.codes[i][better] = matrix.codes[better]
            self.scales[i][better] = matrix.scale[better]
            self.clipped[i][better] = matrix.clipped[better]

    def _measure(self, b1: RoundedMatrix, b2: RoundedMatrix) -> F64:
        gram, cross = _component_products(b1, b2)
        error: F64 = self._target_norm + (gram - 2 * cross).sum(axis=(1, 2))
        return error
