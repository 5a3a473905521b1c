"""Codes of whole matrices, B or a large A without a second factor; their rows are the channels.

A row has a scale of its own; or, where rows are short, one step serves the matrix, and the widths
of its rows say how far their codes go. The step is chosen with them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kronq.model.bit_packing import WIDTHS, packed_size
from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.mixed.bit_allocation import U8
from kronq.quantization.mixed.channel_errors import (
    CODE_WIDTHS,
    ChannelErrors,
    measure_channel_errors,
)
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.factor_pairs import BatchCodes
from kronq.quantization.mixed.fitted_factor import round_channels
from kronq.quantization.mixed.gauge_options import GaugeOption
from kronq.quantization.mixed.gptq import (
    clip_codes,
    code_range,
    round_to_codes,
    round_unclipped,
    round_with_feedback,
)

_STEPS = 2.0 ** np.arange(0.5, -5.5, -1 / 3)
"""Steps to choose from, as parts of a matrix's root mean square."""
_NEAR = 2.0 ** np.arange(-0.25, 0.375, 0.125)
"""Steps to choose from when the widths are known, as parts of the step that they came with."""


def whole_matrix_option(rows: F32, left: ErrorMetric, right: ErrorMetric) -> GaugeOption:
    """Measures the errors of matrices [layers, rows, cols] at every width."""
    row_weight = left.diagonal(rows.shape[1])
    norms = np.einsum("lij,lij->li", right.apply(rows), rows)
    absent = norms * right.identity_weight[:, None] * row_weight
    errors = measure_channel_errors(
        rows, row_weight * right.code_weight[:, None], stores_scale=True
    )
    return GaugeOption((errors,), absent)


def quantize_whole_matrices(
    rows: F32, widths: U8, left: ErrorMetric, right: ErrorMetric
) -> BatchCodes:
    """Quantizes matrices [layers, rows, cols], with a scale for each row.

    Args:
        rows: The values.
        widths: [layers, rows].
        left: Weight of errors across rows.
        right: Weight of errors along rows.
    """
    matrix = round_channels(rows, widths)
    if right.factors is not None:
        gram = None if left.moments is None else left.moments.astype(np.float32)
        matrix.codes, matrix.clipped = round_with_feedback(
            rows, gram, right.factors, matrix.scale, matrix.limits
        )
    weighted = right.apply(matrix.codes)
    norms = np.einsum("lij,lij->li", weighted, matrix.codes)
    cross = np.einsum("lij,lij->li", weighted, rows)
    initial = matrix.scale[..., 0].astype(np.float64)
    scale = np.divide(cross, norms, out=initial.copy(), where=norms > 0)
    return BatchCodes((matrix.codes,), np.clip(scale, initial / 2, initial * 2), (matrix.clipped,))


def one_step_options(rows: F32, left: ErrorMetric, right: ErrorMetric) -> list[GaugeOption]:
    """Measures the errors of matrices [layers, rows, cols] at every width, for each of ``_STEPS``.

    A step is to a matrix what a gauge is to a product: one is chosen for each layer.
    """
    row_weight = left.diagonal(rows.shape[1])
    norms = np.einsum("lij,lij->li", right.apply(rows), rows)
    absent = norms * right.identity_weight[:, None] * row_weight
    weight = (row_weight * right.code_weight[:, None])[..., None]
    nbytes = np.array([packed_size(rows.shape[2], bits) for bits in WIDTHS[1:]])
    options = []
    for step in _STEPS[:, None] * _root_mean_square(rows):
        scale = step.astype(np.float32)[:, None, None]
        errors = np.empty((*rows.shape[:2], len(CODE_WIDTHS)))
        for i, bits in enumerate(CODE_WIDTHS):
            codes = round_to_codes(rows, scale, code_range(np.array([bits], dtype=np.uint8)))
            residual = rows - codes * scale
            errors[..., i] = np.einsum("lij,lij->li", residual, residual)
        options.append(GaugeOption((ChannelErrors(errors * weight, nbytes),), absent))
    return options


def quantize_to_one_step(
    rows: F32, widths: U8, option: NDArray[np.intp], left: ErrorMetric, right: ErrorMetric
) -> BatchCodes:
    """Quantizes matrices [layers, rows, cols] to one step each.

    Args:
        rows: The values.
        widths: [layers, rows].
        option: [layers]: index of each layer's step in ``_STEPS``.
        left: Weight of errors across rows.
        right: Weight of errors along rows.

    Returns:
        The codes, with scales [layers, 1].
    """
    limits = code_range(widths)
    scale = _nearest_steps(rows, _STEPS[option] * _root_mean_square(rows), widths)
    codes, clipped = clip_codes(round_unclipped(rows, scale), limits)
    if right.factors is not None:
        gram = None if left.moments is None else left.moments.astype(np.float32)
        codes, clipped = round_with_feedback(
            rows, gram, right.factors, np.broadcast_to(scale, (*widths.shape, 1)), limits
        )
    weighted = right.apply(codes)
    if left.moments is not None:
        weighted = left.moments @ weighted
    norms = np.einsum("lij,lij->l", weighted, codes)
    cross = np.einsum("lij,lij->l", weighted, rows)
    initial = scale[:, 0, 0].astype(np.float64)
    fitted = np.divide(cross, norms, out=initial.copy(), where=norms > 0)
    step = np.clip(fitted, initial / 2, initial * 2)
    return BatchCodes((codes,), step[:, None], (clipped,))


def _nearest_steps(rows: F32, step: F64, widths: U8) -> F32:
    """Returns the better of the steps near ``step`` [layers] for these widths, [layers, 1, 1]."""
    scales = (_NEAR[:, None] * step).astype(np.float32)[..., None, None]
    errors = [
        ((rows - round_to_codes(rows, scale, code_range(widths)) * scale) ** 2).sum(axis=(1, 2))
        for scale in scales
    ]
    best: F32 = scales[np.argmin(errors, axis=0), np.arange(len(rows))]
    return best


def _root_mean_square(rows: F32) -> F64:
    """Returns the root mean square of each matrix's entries, [layers]."""
    mean: F64 = np.square(rows, dtype=np.float64).mean(axis=(1, 2))
    return np.sqrt(mean)
