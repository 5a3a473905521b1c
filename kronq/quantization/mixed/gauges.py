"""Gauges of factor pairs B1·B2: as trained, and the principal one of the error metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.mixed.channel_errors import measure_channel_errors
from kronq.quantization.mixed.error_metric import ErrorMetric
from kronq.quantization.mixed.gauge_options import GaugeOption

_TOGETHER = 2**16
"""Values of a factor that are multiplied at once."""


@dataclass(frozen=True, eq=False)
class FactorPair:
    """Factors of a batch of layers in one gauge, channel by channel.

    Attributes:
        left: B1ᵀ, [layers, rank, rows].
        right: B2, [layers, rank, cols].
    """

    left: F32
    right: F32


def select_gauge(gauges: Sequence[FactorPair], gauge: NDArray[np.intp]) -> FactorPair:
    """Takes each layer in its own gauge.

    Args:
        gauges: The layers in each gauge.
        gauge: [layers]: index of each layer's gauge.
    """
    pairs = [(gauges[number], layer) for layer, number in enumerate(gauge.tolist())]
    left = np.stack([pair.left[layer] for pair, layer in pairs])
    return FactorPair(left, np.stack([pair.right[layer] for pair, layer in pairs]))


def gauges_of(pair: FactorPair, left: ErrorMetric, right: ErrorMetric) -> list[FactorPair]:
    """Returns the gauges to choose from."""
    trained = balance_components(pair, left, right)
    return [trained, principal_gauge(trained, left, right)]


def gauge_options(
    gauges: Sequence[FactorPair], left: ErrorMetric, right: ErrorMetric
) -> list[GaugeOption]:
    """Returns the errors of the channels of each gauge at every width."""
    options = []
    for each in gauges:
        left_norms = left.squared_norms(each.left)
        right_norms = right.squared_norms(each.right) * right.identity_weight[:, None]
        matrices = (
            measure_channel_errors(
                each.left, right_norms * left.code_weight[:, None], stores_scale=True
            ),
            measure_channel_errors(
                each.right, left_norms * right.code_weight[:, None], stores_scale=False
            ),
        )
        options.append(GaugeOption(matrices, left_norms * right_norms))
    return options


def balance_components(pair: FactorPair, left: ErrorMetric, right: ErrorMetric) -> FactorPair:
    """Rescales components to equal norms in both factors, so that none loses float precision."""
    left_norms, right_norms = left.squared_norms(pair.left), right.squared_norms(pair.right)
    nonzero = (left_norms > 0) & (right_norms > 0)
    ratio = np.divide(right_norms, left_norms, out=np.ones_like(left_norms), where=nonzero)
    factor = (ratio[..., None] ** 0.25).astype(np.float32)
    return FactorPair(pair.left * factor, pair.right / factor)


def principal_gauge(pair: FactorPair, left: ErrorMetric, right: ErrorMetric) -> FactorPair:
    """Returns the same products in the gauge U√s, √s·Vᵀ, whose components are orthogonal.

    The SVD is that of the metric: of left½·B·right½.
    """
    left_root, left_inverse = _root_and_inverse(left.inner(pair.left, pair.left))
    right_root, right_inverse = _root_and_inverse(right.inner(pair.right, pair.right))
    u, s, vt = np.linalg.svd(left_root @ right_root.transpose(0, 2, 1))
    root_s = np.sqrt(s)[:, :, None]
    to_left = root_s * (left_inverse @ u).transpose(0, 2, 1)
    to_right = root_s * (vt @ right_inverse.transpose(0, 2, 1))
    return FactorPair(_multiply(to_left, pair.left), _multiply(to_right, pair.right))


def _multiply(gauge: F64, factor: F32) -> F32:
    """Returns gauge · factor of every layer, a few at a time: what a processor's cache holds."""
    product = np.empty_like(factor)
    step = max(1, _TOGETHER // (factor.shape[1] * factor.shape[2]))
    for start in range(0, len(factor), step):
        some = slice(start, start + step)
        product[some] = gauge[some] @ factor[some]
    return product


def _root_and_inverse(gram: F64) -> tuple[F64, F64]:
    """Returns R with Rᵀ·R = gram, and its pseudo-inverse."""
    values, vectors = np.linalg.eigh(gram)
    values = np.where(values > 1e-13 * values[:, -1:], values, 0.0)
    root = np.sqrt(values)
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    return root[:, :, None] * vectors.transpose(0, 2, 1), vectors * inverse[:, None]
