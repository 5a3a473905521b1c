"""A factor and its codes, which are fitted to those of the other factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.mixed.bit_allocation import U8
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.gptq import I64, CodeRange, clip_codes, code_range, round_unclipped
from kronq.quantization.mixed.integer_descent import (
    I16,
    FixedPoint,
    inner_products,
    round_to_integers,
)
from kronq.quantization.scale_search import fit_scales


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

    _products: tuple[F64, F64] | None = None

    @classmethod
    def rounded(cls, target: F32, widths: U8, metric: ErrorMetric) -> FittedFactor:
        """Rounds every channel by itself."""
        scale, limits = channel_scales(target, widths), code_range(widths)
        fixed = FixedPoint.of(target) if metric.moments is None else None
        codes, clipped = round_to_integers(target, scale, limits)
        return cls(target, fixed, metric, limits, scale, codes, clipped)

    def replace_codes(self, codes: I16, clipped: I64) -> None:
        self.codes, self.clipped, self._products = codes, clipped, None

    def _code_products(self, fixed: FixedPoint) -> tuple[F64, F64]:
        """Returns the inner products of codes with themselves and with targets."""
        if self._products is None:
            self._products = inner_products(self.codes, fixed.numbers)
        return self._products

    def own_products(self) -> F64:
        """Returns the inner products of values with themselves, [layers, channels, channels].

        BLAS adds up a matrix times its own transpose in an order of its own; with a copy it takes
        the one that files were always made with.
        """
        if self.fixed is None:
            return self.metric.inner(self._values, self._values)
        return self._code_products(self.fixed)[0] * self._scales * self._scales.swapaxes(1, 2)

    def target_products(self) -> F64:
        """Returns the inner products of values with targets, [layers, channels, channels]."""
        if self.fixed is None:
            return self.metric.inner(self._values, self.target)
        return self._code_products(self.fixed)[1] * self._scales * self.fixed.steps[:, None]

    @property
    def _values(self) -> F32:
        values: F32 = self.codes[..., : self.target.shape[2]] * self.scale
        return values

    @property
    def _scales(self) -> F64:
        return self.scale.astype(np.float64)


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
