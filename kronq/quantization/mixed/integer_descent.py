"""Coordinate descent over codes, in sums that are exact in any order.

Targets are rounded to 16 bits of the largest value in their channel, a hundredth of the error of
8-bit codes. All sums are then of whole numbers below 2^53, which float64 holds: BLAS, the loops in
C and every processor give the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import call, library
from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.mixed.gptq import (
    I64,
    CodeRange,
    clip_codes,
    inverse_scales,
    round_unclipped,
)

I16 = NDArray[np.int16]

_LARGEST = 2**15 - 1
_BLOCK = 32
"""Entries of a channel are filled up with zeros to a multiple of this."""
_UNITS = 256
"""Units of a code in the sums, in which it is about as large as a target."""
_WEIGHT_BITS = 24
"""Bits of the largest weight of a channel; with 16 of a number, and 2^12 channels, 52."""


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """Values of a batch of layers as multiples of a step for each channel.

    Attributes:
        numbers: [layers, channels, length], filled up with zeros.
        steps: [layers, channels].
    """

    numbers: I16
    steps: F64

    @classmethod
    def of(cls, values: F32) -> FixedPoint:
        """Rounds values [layers, channels, length]."""
        functions, (layers, channels, length) = library(), values.shape
        if functions is not None:
            numbers = np.empty((layers, channels, _filled(length)), dtype=np.int16)
            tops = np.empty((layers, channels), dtype=np.float32)
            sizes = layers * channels, length, _filled(length)
            call(functions, "kronq_fix_points", *sizes, np.ascontiguousarray(values), numbers, tops)
            return cls(numbers, tops.astype(np.float64) / _LARGEST)
        top = np.maximum(values.max(axis=2), -values.min(axis=2))[..., None]
        unit = values / np.where(top > 0, top, np.float32(1))
        unit *= np.float32(_LARGEST)
        steps = top[..., 0].astype(np.float64) / _LARGEST
        return cls(fill_up(np.rint(unit, out=unit)), steps)


def fill_up(codes: NDArray[np.float32]) -> I16:
    """Returns whole numbers [layers, channels, length] as int16, filled up with zeros."""
    length = codes.shape[2]
    filled = np.zeros((*codes.shape[:2], _filled(length)), dtype=np.int16)
    filled[..., :length] = codes
    return filled


def _filled(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def round_to_integers(values: F32, scale: F32, limits: CodeRange) -> tuple[I16, I64]:
    """Rounds values [layers, channels, length] at ``scale`` to the nearest codes, filled up.

    Returns:
        The codes, and the number clipped in each layer.
    """
    functions, (layers, channels, length) = library(), values.shape
    if functions is None:
        codes, clipped = clip_codes(round_unclipped(values, scale), limits)
        return fill_up(codes), clipped
    made = np.empty((layers, channels, _filled(length)), dtype=np.int16)
    beyond = np.empty((layers, channels), dtype=np.int64)
    inverses = inverse_scales(scale)
    low, high = (np.ascontiguousarray(limit, dtype=np.float32) for limit in limits)
    sizes = layers * channels, length, _filled(length)
    given = np.ascontiguousarray(values), inverses, low, high, made, beyond
    call(functions, "kronq_round_channels", *sizes, *given)
    return made, beyond.sum(axis=1)


def inner_products(codes: I16, targets: I16) -> tuple[F64, F64]:
    """Returns the inner products of codes with each other and with targets.

    Args:
        codes: [layers, channels, length].
        targets: The same.

    Returns:
        Both [layers, channels, channels].
    """
    functions, (layers, channels, length) = library(), codes.shape
    if functions is None:
        values = codes.astype(np.float64)
        return values @ values.swapaxes(1, 2), values @ targets.astype(np.float64).swapaxes(1, 2)
    own, with_targets = np.empty((2, layers, channels, channels))
    call(
        functions,
        "kronq_inner_products",
        layers,
        channels,
        length,
        codes,
        targets,
        own,
        with_targets,
    )
    return own, with_targets


def coordinate_descent(
    cross: F64, gram: F64, target: FixedPoint, codes: I16, scale: F32, limits: CodeRange
) -> tuple[I16, I64]:
    """Codes channel by channel anew, for the least tr(H·E·Eᵀ); the error never grows.

    Args:
        cross: [layers, channels, channels]: H, but of coded and target values; times Z it is what
            the codes come near.
        gram: H, [layers, channels, channels].
        target: Z, [layers, channels, length].
        codes: The codes until now, [layers, channels, length].
        scale: [layers, channels, 1].
        limits: Range of the codes.

    Returns:
        The codes, and the number clipped in each layer.
    """
    scales = scale[..., 0].astype(np.float64)
    low, high = (np.ascontiguousarray(limit[..., 0], dtype=np.float64) for limit in limits)
    functions = library()
    if functions is None:
        weights, units = _whole_weights(cross, gram, target.steps, scales)
        return _descend(weights, units, target.numbers, codes, (low, high))
    made, clipped = np.empty_like(codes), np.empty(len(codes), dtype=np.int64)
    given = cross, gram, target.steps, scales, low, high, target.numbers, codes, made, clipped
    call(functions, "kronq_descend", *codes.shape, *given)
    return made, clipped


def _whole_weights(cross: F64, gram: F64, steps: F64, scale: F64) -> tuple[F64, F64]:
    """Returns whole weights [layers, channels, 2 · channels] of targets and codes, and their unit.

    A code of least error is (Σ cross·target − Σ' gram·value) ÷ (its own gram · its scale), with Σ'
    over all other channels.
    """
    own = np.einsum("lii->li", gram) * scale
    inverse = np.divide(1, own, out=np.zeros_like(own), where=own > 0)[..., None]
    layers, channels, _ = gram.shape
    weights = np.empty((layers, channels, 2 * channels))
    np.multiply(cross, steps[:, None], out=weights[..., :channels])
    np.multiply(gram, scale[:, None] / -_UNITS, out=weights[..., channels:])
    np.einsum("lii->li", weights[..., channels:])[...] = 0
    weights *= inverse
    exponents = _WEIGHT_BITS - np.frexp(np.maximum(weights.max(axis=2), -weights.min(axis=2)))[1]
    np.ldexp(weights, exponents[..., None], out=weights)
    return np.rint(weights, out=weights), np.ldexp(1.0, -exponents)


def _descend(
    weights: F64, units: F64, targets: I16, codes: I16, limits: tuple[F64, F64]
) -> tuple[I16, I64]:
    channels = codes.shape[1]
    values = codes.astype(np.float64) * _UNITS
    aims = weights[..., :channels] @ targets.astype(np.float64)
    clipped = np.zeros(len(codes), dtype=np.int64)
    for k in range(channels):
        found = (weights[:, k : k + 1, channels:] @ values)[:, 0]
        found += aims[:, k]
        found *= units[:, k, None]
        low, high = (limit[:, k, None] for limit in limits)
        np.rint(found, out=found)
        clipped += np.count_nonzero((found < low) | (found > high), axis=1)
        np.multiply(np.clip(found, low, high, out=found), _UNITS, out=values[:, k])
    return (values / _UNITS).astype(np.int16), clipped
