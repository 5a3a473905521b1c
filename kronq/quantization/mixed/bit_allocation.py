"""Bit allocation: the width of every channel, for the least error in a number of bytes.

The error of each channel is measured at each width. Given a price λ of a byte, each channel takes
the width of least error + λ · bytes (Shoham and Gersho, IEEE Trans. ASSP 36, 1988), and λ is
bisected until the bytes fit. Components of little energy get fewer bits, or none: reverse
water-filling on measured errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.bit_packing import WIDTHS, packed_size
from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.grid import fit_scales
from kronq.quantization.mixed.gptq import code_range, round_to_codes

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

CODE_WIDTHS = np.array(WIDTHS[1:], dtype=np.uint8)
"""Widths of channels that are stored; a channel of width 0 is left out."""
_SAMPLE = 192
"""Entries of a channel that its error is measured on."""
_BISECTIONS = 60


@dataclass(frozen=True, eq=False)
class ChannelErrors:
    """Errors of one matrix of a batch of layers, by channel and width.

    Attributes:
        errors: [layers, channels, widths]: weighted squared error at each of ``CODE_WIDTHS``.
        nbytes: [widths]: bytes of one channel, including its scale if it stores one.
    """

    errors: F64
    nbytes: I64


@dataclass(frozen=True, eq=False)
class GaugeOption:
    """A gauge in which a batch of layers can be coded.

    Attributes:
        matrices: One whole matrix, or two factors whose channels are present or absent together.
        absent: [layers, channels]: error where the channel is left out.
    """

    matrices: tuple[ChannelErrors, ...]
    absent: F64


@dataclass(frozen=True, eq=False)
class Allocation:
    """Gauge of every layer and width of every channel of a batch.

    Attributes:
        gauge: [layers]: index into the batch's gauge options.
        widths: [layers, channels] for each matrix.
    """

    gauge: NDArray[np.intp]
    widths: tuple[U8, ...]


def concatenate_options(parts: Sequence[GaugeOption]) -> GaugeOption:
    """Joins one gauge option of several parts of a batch."""
    matrices = tuple(
        ChannelErrors(np.concatenate([matrix.errors for matrix in each]), each[0].nbytes)
        for each in zip(*(part.matrices for part in parts), strict=True)
    )
    return GaugeOption(matrices, np.concatenate([part.absent for part in parts]))


def measure_channel_errors(
    channels: F32, error_weight: F64, *, stores_scale: bool
) -> ChannelErrors:
    """Measures the rounding error of every channel at every width.

    Args:
        channels: [layers, channels, length].
        error_weight: [layers, channels]: weight of a squared error of one entry.
        stores_scale: Whether a float16 scale is stored with each channel.
    """
    layers, count, length = channels.shape
    sample = channels[:, :, :: -(-length // _SAMPLE)]
    rows = np.ascontiguousarray(sample).reshape(layers * count, -1)
    errors = np.empty((len(rows), len(CODE_WIDTHS)))
    for i, bits in enumerate(CODE_WIDTHS):
        scale = fit_scales(rows, int(bits))[:, None]
        limits = code_range(np.array([bits], dtype=np.uint8))
        residual = rows - round_to_codes(rows, scale, limits) * scale
        errors[:, i] = np.einsum("ij,ij->i", residual, residual)
    weight = error_weight * length / sample.shape[2]
    errors = errors.reshape(layers, count, -1) * weight[..., None]
    nbytes = np.array([packed_size(length, bits) for bits in WIDTHS[1:]])
    return ChannelErrors(errors, nbytes + 2 * stores_scale)


def allocate_bits(batches: Sequence[Sequence[GaugeOption]], nbytes: int) -> list[Allocation]:
    """Finds the gauges and widths of least total error.

    Args:
        batches: Gauge options of each batch of layers.
        nbytes: Budget for all codes and scales together.

    Returns:
        The allocation of each batch.
    """
    low, high = -400.0, 400.0  # log2 of the price of a byte
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        sizes = [_allocate_at_price(options, 2.0**middle)[1] for options in batches]
        if sum(sizes) > nbytes:
            low = middle
        else:
            high = middle
    priced = [_allocate_at_price(options, 2.0**high) for options in batches]
    allocations = [allocation for allocation, _ in priced]
    _spend_remaining(batches, allocations, nbytes - sum(size for _, size in priced))
    return allocations


def _allocate_at_price(options: Sequence[GaugeOption], price: float) -> tuple[Allocation, int]:
    """Minimizes error + price · bytes for every layer; returns the bytes too."""
    width_indices, costs = [], []
    for option in options:
        priced = [matrix.errors + price * matrix.nbytes for matrix in option.matrices]
        best_width = [each.argmin(axis=2) for each in priced]
        present = sum(each.min(axis=2) for each in priced)
        costs.append(np.minimum(present, option.absent).sum(axis=1))
        width_indices.append([np.where(present < option.absent, 1 + w, 0) for w in best_width])
    gauge = np.argmin(costs, axis=0)
    layers = np.arange(len(gauge))
    chosen = [np.stack(each)[gauge, layers] for each in zip(*width_indices, strict=True)]
    sizes = [np.concatenate([[0], matrix.nbytes]) for matrix in options[0].matrices]
    total = sum(int(size[index].sum()) for size, index in zip(sizes, chosen, strict=True))
    widths = tuple(np.array(WIDTHS, dtype=np.uint8)[index] for index in chosen)
    return Allocation(gauge, widths), total


def _spend_remaining(
    batches: Sequence[Sequence[GaugeOption]], allocations: list[Allocation], remaining: int
) -> None:
    """Widens channels by one bit, in place, in order of error saved per byte."""
    offers: list[tuple[Any, ...]] = []
    for batch, (options, allocation) in enumerate(zip(batches, allocations, strict=True)):
        layers = np.arange(len(allocation.gauge))
        for matrix, widths in enumerate(allocation.widths):
            index = widths.astype(np.intp) - 2
            wider = np.minimum(index + 1, len(CODE_WIDTHS) - 1)
            errors = np.stack([o.matrices[matrix].errors for o in options])
            errors = errors[allocation.gauge, layers]
            nbytes = options[0].matrices[matrix].nbytes
            saved = np.take_along_axis(errors, np.maximum(index, 0)[..., None], 2)[..., 0]
            saved -= np.take_along_axis(errors, wider[..., None], 2)[..., 0]
            extra = nbytes[wider] - nbytes[np.maximum(index, 0)]
            can_widen = (index >= 0) & (extra > 0) & (saved > 0)
            offers.extend(
                (saved[i] / extra[i], int(extra[i]), batch, matrix, i)
                for i in zip(*np.nonzero(can_widen), strict=True)
            )
    for _, extra, batch, matrix, channel in sorted(offers, key=lambda offer: -offer[0]):
        if extra <= remaining:
            allocations[batch].widths[matrix][channel] += 1
            remaining -= extra
