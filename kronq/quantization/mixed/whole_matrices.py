"""Codes of whole matrices, B without a second factor or a large A; their rows are the channels."""

from __future__ import annotations

import numpy as np

from kronq.model.matrix import F32
from kronq.quantization.mixed.bit_allocation import U8, GaugeOption, measure_channel_errors
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.factor_pairs import BatchCodes, round_channels
from kronq.quantization.mixed.gptq import round_with_feedback


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
    matrix = round_channels(rows, widths, right)
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
