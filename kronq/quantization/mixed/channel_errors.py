"""Errors of channels at every width, by which bits are allocated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.model.bit_packing import WIDTHS, packed_size
from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.scale_search import fit_float16_scales, normalize_rows

I64 = NDArray[np.int64]

CODE_WIDTHS = np.array(WIDTHS[1:], dtype=np.uint8)
"""Widths of channels that are stored; a channel of width 0 is left out."""
_TRIED = {bits: 3 if bits <= 5 else 1 for bits in WIDTHS[1:]}
"""Width → 3 where every third scale, and those beside the best, tell the error well enough."""
_SAMPLE = 192
"""Entries of a channel that its error is measured on."""


@dataclass(frozen=True, eq=False)
class ChannelErrors:
    """Errors of one matrix of a batch of layers, by channel and width.

    Attributes:
        errors: [layers, channels, widths]: weighted squared error at each of ``CODE_WIDTHS``.
        nbytes: [widths]: bytes of one channel, including its scale if it stores one.
    """

    errors: F64
    nbytes: I64


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
    rows, top = normalize_rows(np.ascontiguousarray(sample).reshape(layers * count, -1))
    errors = np.empty((len(rows), len(CODE_WIDTHS)))
    for i, bits in enumerate(CODE_WIDTHS):
        errors[:, i] = fit_float16_scales(rows, int(bits), every=_TRIED[int(bits)])[1]
    errors *= np.square(top, dtype=np.float64)[:, None]
    weight = error_weight * length / sample.shape[2]
    errors = errors.reshape(layers, count, -1) * weight[..., None]
    nbytes = np.array([packed_size(length, bits) for bits in WIDTHS[1:]])
    return ChannelErrors(errors, nbytes + 2 * stores_scale)
