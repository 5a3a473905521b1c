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
    round_unclipped,
    round_with_feedback,
)
from kronq.quantization.mixed.integer_descent import (
    I16,
    FixedPoint,
    coordinate_descent,
    fill_up,
    inner_products,
    round_to_integers,
)

_SWEEPS = 8
_CALIBRATED_SWEEPS = 4
"""With second moments each sweep costs more and gains less."""
_RIDGE = 1e-7


@dataclass
class RoundedMatrix:
    """A matrix of a batch of layers, every channel rounded by itself.

    Attributes:
        limits: Range of the codes.
        scale: [layers, channels, 1].
        codes: [layers, channels, length].
        clipped: [layers]: values beyond the outermost codes.
    """

    limits: CodeRange
    scale: F32
    codes: F32
    clipped: I64


@dataclass
class FittedFactor:
    """A factor of a batch of layers, whose codes are fitted to those of the other.

    Attributes:
        target: Values to be coded, [layers, channels, length].
        fixed: The same in fixed point; None with second moments, whose sums are not of codes alone.
        metric: Weight of its errors.
        limits: Range of the codes.
        scale: [layers, channels, 1].
        codes: [layers, channels, length], filled up.
        clipped: [layers]: values, error feedback included, beyond the outermost codes.
    """

    target: F32
    fixed: FixedPoint | None
    metric: ErrorMetric
    limits: CodeRange
    scale: F32
    codes: I16
    clipped: I64

    def __post_init__(self) -> None:
        self.replace_codes(self.codes, self.clipped)

    @classmethod
    def rounded(cls, target: F32, widths: U8, metric: ErrorMetric) -> FittedFactor:
        """Rounds every channel by itself."""
        scale, limits = channel_scales(target, widths), code_range(widths)
        fixed = FixedPoint.of(target) if metric.moments is None else None
        codes, clipped = round_to_integers(target, scale, limits)
        return cls(target, fixed, metric, limits, scale, codes, clipped)

    def replace_codes(self, codes: I16, clipped: I64) -> None:
        self.codes, self.clipped = codes, clipped
        if self.fixed is not None:
            self._own = inner_products(codes, codes)
            self._with_target = inner_products(codes, self.fixed.numbers)

    def own_products(self) -> F64:
        """Returns the inner products of values with themselves, [layers, channels, channels].

        BLAS adds up a matrix times its own transpose in an order of its own; with a copy it takes
        the one that files were always made with.
        """
        if self.fixed is None:
            return self.metric.inner(self._values, self._values)
        return self._own * self._scales * self._scales.swapaxes(1, 2)

    def target_products(self) -> F64:
        """Returns the inner products of values with targets, [layers, channels, channels]."""
        if self.fixed is None:
            return self.metric.inner(self._values, self.target)
        return self._with_target * self._scales * self.fixed.steps[:, None]

    @property
    def _values(self) -> F32:
        values: F32 = self.codes[..., : self.target.shape[2]] * self.scale
        return values

    @property
    def _scales(self) -> F64:
        return self.scale.astype(np.float64)


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


def round_channels(target: F32, widths: U8) -> RoundedMatrix:
    """Rounds every channel by itself, at its scale of least squared error."""
    scale, limits = channel_scales(target, widths), code_range(widths)
    codes, clipped = clip_codes(round_unclipped(target, scale), limits)
    return RoundedMatrix(limits, scale, codes, clipped)


def channel_scales(target: F32, widths: U8) -> F32:
    """Returns every channel's scale of least squared error, [layers, channels, 1]."""
    scale = np.zeros((*widths.shape, 1), dtype=np.float32)
    for bits in np.unique(widths[widths > 0]):
        channels = widths == bits
        scale[channels, 0] = fit_scales(target[channels], int(bits))
    return scale


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
    best = _BestCodes(b1, b2)
    calibrated = left.factors is not None or right.factors is not None
    for _ in range(_CALIBRATED_SWEEPS if calibrated else _SWEEPS):
        _refit_codes(b1, b2)
        _refit_codes(b2, b1)
        _refit_scales(b1, b2)
        best.update(b1, b2)
    scale = best.scales[0].astype(np.float64) * best.scales[1]
    lengths = pair.left.shape[2], pair.right.shape[2]
    codes = tuple(each[..., :length] for each, length in zip(best.codes, lengths, strict=True))
    return BatchCodes(codes, scale[..., 0], best.clipped)


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
    target = np.linalg.solve(_regularized(gram), cross @ matrix.target).astype(np.float32)
    codes, clipped = round_with_feedback(
        target,
        _regularized(gram).astype(np.float32),
        matrix.metric.factors,
        matrix.scale,
        matrix.limits,
    )
    matrix.replace_codes(fill_up(codes), clipped)


def _refit_scales(b1: FittedFactor, b2: FittedFactor) -> None:
    """Fits the scales of all components by least squares, and stores them with B1."""
    gram, cross = _component_products(b1, b2)
    factor = np.linalg.solve(_regularized(gram), cross.sum(axis=2)[..., None])
    b1.scale = b1.scale * np.clip(factor, 0.5, 2).astype(np.float32)


def _component_products(b1: FittedFactor, b2: FittedFactor) -> tuple[F64, F64]:
    """Inner products of coded components with coded and with target ones, [layers, rank, rank]."""
    gram = b1.own_products() * b2.own_products()
    return gram, b1.target_products() * b2.target_products()


def _regularized(gram: F64) -> F64:
    size = gram.shape[1]
    mean = np.einsum("lii->l", gram)[:, None, None] / size
    ridge: F64 = gram + np.eye(size) * (_RIDGE * mean + 1e-30)
    return ridge


class _BestCodes:
    """Codes of least error so far, layer by layer: a sweep of feedback may raise the error."""

    def __init__(self, b1: FittedFactor, b2: FittedFactor) -> None:
        self._error = self._measure(b1, b2)
        self._take(b1, b2)

    def _take(self, b1: FittedFactor, b2: FittedFactor) -> None:
        self.codes = b1.codes, b2.codes
        self.scales = b1.scale, b2.scale
        self.clipped = b1.clipped, b2.clipped

    def update(self, b1: FittedFactor, b2: FittedFactor) -> None:
        error = self._measure(b1, b2)
        better = error < self._error
        self._error = np.where(better, error, self._error)
        if better.all():
            self._take(b1, b2)
            return
        chosen = better[:, None, None]
        self.codes = np.where(chosen, b1.codes, self.codes[0]), np.where(chosen, b2.codes, self.codes[1])
        self.scales = (
            np.where(chosen, b1.scale, self.scales[0]),
            np.where(chosen, b2.scale, self.scales[1]),
        )
        self.clipped = (
            np.where(better, b1.clipped, self.clipped[0]),
            np.where(better, b2.clipped, self.clipped[1]),
        )

    def _measure(self, b1: FittedFactor, b2: FittedFactor) -> F64:
        """Returns the error of each layer, less the norm of its target."""
        gram, cross = _component_products(b1, b2)
        error: F64 = (gram - 2 * cross).sum(axis=(1, 2))
        return error
