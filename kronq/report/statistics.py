"""Statistics of layers, and of several layers together, from sums that can be added."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kronq.model.squared_norms import SquaredNorms
from kronq.report.code_statistics import CodeStatistics
from kronq.report.models import LayerStatistics

_ROUNDING = 1e-24
"""Part of ‖ΔW‖² below which ‖ΔŴ‖² is the rounding error of a ΔŴ that is zero."""


@dataclass(frozen=True)
class LayerSums:
    """Additive statistics of a layer.

    Summed over layers (maximum for spectral norms) they are the adapter's.

    Attributes:
        parameters: Number of stored weights.
        bytes: Bytes of the layer, or of the whole file.
        bytes_before: Bytes of the layer it was quantized from.
        bits: Coding cost in bits.
        weight: Squared norms of ΔW, ΔŴ and their difference.
        spectral: ‖ΔW‖₂ and ‖ΔW − ΔŴ‖₂. The largest of all layers are the norms of the
            block-diagonal matrix of all layers.
        activation: E‖ΔW·x‖² and E‖(ΔW − ΔŴ)·x‖²; None without calibration.
        loss: E(g·ΔW·x)² and E(g·(ΔW − ΔŴ)·x)²; None without gradients.
        codes: Statistics of the codes.
    """

    parameters: int
    bytes: int
    bytes_before: int
    bits: float
    weight: SquaredNorms
    spectral: tuple[float, float]
    activation: tuple[float, float] | None
    loss: tuple[float, float] | None
    codes: CodeStatistics


def add_statistics(layers: Iterable[LayerSums]) -> LayerSums:
    """Adds the sums of several layers."""
    every = list(layers)
    return LayerSums(
        parameters=sum(layer.parameters for layer in every),
        bytes=sum(layer.bytes for layer in every),
        bytes_before=sum(layer.bytes_before for layer in every),
        bits=sum(layer.bits for layer in every),
        weight=SquaredNorms(
            sum(layer.weight.reference for layer in every),
            sum(layer.weight.approximation for layer in every),
            sum(layer.weight.error for layer in every),
        ),
        spectral=(
            max(layer.spectral[0] for layer in every),
            max(layer.spectral[1] for layer in every),
        ),
        activation=_add_squares([layer.activation for layer in every]),
        loss=_add_squares([layer.loss for layer in every]),
        codes=_add_codes([layer.codes for layer in every]),
    )


def layer_sums(layer: LayerStatistics) -> LayerSums:
    """Returns the sums that a layer's statistics were computed from."""
    reference = layer.norm**2
    clipped = layer.clipped_share
    return LayerSums(
        parameters=layer.parameters,
        bytes=layer.bytes,
        bytes_before=layer.bytes_before,
        bits=layer.bits_spent,
        weight=SquaredNorms(
            reference, layer.energy_kept * reference, layer.relative_error**2 * reference
        ),
        spectral=(layer.spectral_norm, layer.spectral_error * layer.spectral_norm),
        activation=_squares(layer.activation_norm, layer.activation_error),
        loss=_squares(layer.loss_norm, layer.loss_error),
        codes=CodeStatistics(
            layer.codes,
            round(layer.codes * (layer.zero_share or 0.0)),
            None if clipped is None else round(layer.codes * clipped),
            layer.dead_components,
        ),
    )


def statistics_fields(layer: LayerSums) -> dict[str, Any]:
    """Returns the fields of ``Statistics``."""
    weight, codes = layer.weight, layer.codes
    error = relative_norm(weight.error, weight.reference) or 0.0
    spectral_norm, spectral_error = layer.spectral
    activation = None if layer.activation is None else relative_norm(*layer.activation[::-1])
    clipped = codes.clipped if codes.codes else None
    return {
        "parameters": layer.parameters,
        "bytes": layer.bytes,
        "bytes_before": layer.bytes_before,
        "bits_per_parameter": 8 * layer.bytes / layer.parameters,
        "bits_spent": layer.bits,
        "relative_error": error,
        "snr_db": snr_db(error),
        "energy_kept": weight.approximation / weight.reference if weight.reference else 1.0,
        "cosine": _cosine(weight),
        "spectral_error": spectral_error / spectral_norm if spectral_norm else 0.0,
        "activation_error": activation,
        "activation_snr_db": None if activation is None else snr_db(activation),
        "loss_error": None if layer.loss is None else relative_norm(*layer.loss[::-1]),
        "zero_share": codes.zeros / codes.codes if codes.codes else None,
        "clipped_share": None if clipped is None else clipped / codes.codes,
        "dead_components": codes.dead,
    }


def relative_norm(error: float, reference: float) -> float | None:
    """Returns √(error / reference); 0 if both are zero, None if only the reference is."""
    if reference:
        return math.sqrt(error / reference)
    return None if error else 0.0


def snr_db(relative_error: float) -> float | None:
    """Returns the signal-to-noise ratio in dB; None without an error."""
    return -20 * math.log10(relative_error) if relative_error > 0 else None


def _add_squares(squares: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    present = [pair for pair in squares if pair is not None]
    if len(present) < len(squares):
        return None
    return sum(pair[0] for pair in present), sum(pair[1] for pair in present)


def _add_codes(layers: Sequence[CodeStatistics]) -> CodeStatistics:
    coded = [layer for layer in layers if layer.codes]
    dead = [layer.dead for layer in layers if layer.dead is not None]
    clipped = [layer.clipped for layer in coded if layer.clipped is not None]
    return CodeStatistics(
        sum(layer.codes for layer in coded),
        sum(layer.zeros for layer in coded),
        sum(clipped) if coded and len(clipped) == len(coded) else None,
        sum(dead) if dead else None,
    )


def _squares(norm: float | None, error: float | None) -> tuple[float, float] | None:
    return None if norm is None or error is None else (norm**2, (norm * error) ** 2)


def _cosine(weight: SquaredNorms) -> float | None:
    """Computes ⟨a,b⟩ / (‖a‖·‖b‖) from 2·⟨a,b⟩ = ‖a‖² + ‖b‖² − ‖a − b‖², all terms exact."""
    if weight.approximation <= _ROUNDING * weight.reference:
        return None
    norms = math.sqrt(weight.reference) * math.sqrt(weight.approximation)
    inner = (weight.reference + weight.approximation - weight.error) / 2
    return min(max(inner / norms, -1.0), 1.0)
