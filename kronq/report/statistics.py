"""Figures of layers, and of layers together, from what can be added up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kronq.model.squared_norms import SquaredNorms
from kronq.report.code_statistics import CodeFigures
from kronq.report.models import LayerReport

_NOTHING = 1e-24
"""Less than this part of ‖ΔW‖² is the rounding of a ΔŴ that is zero."""


@dataclass(frozen=True)
class Sums:
    """What of a layer can be added to what of another.

    Attributes:
        parameters: Stored weights.
        bytes: Of the layer, or of the whole file.
        bytes_before: As it was stored before.
        bits: As they were spent.
        weight: Squared norms of ΔW, ΔŴ and their difference.
        spectral: ‖ΔW‖₂ and ‖ΔW − ΔŴ‖₂; of several layers the largest, which is that of all of them
            along one diagonal.
        activation: Squared activations of the two; None without calibration.
        loss: The same, seen by the loss; None without gradients.
        codes: See ``CodeFigures``.
    """

    parameters: int
    bytes: int
    bytes_before: int
    bits: float
    weight: SquaredNorms
    spectral: tuple[float, float]
    activation: tuple[float, float] | None
    loss: tuple[float, float] | None
    codes: CodeFigures


def added(parts: Iterable[Sums]) -> Sums:
    """Several layers as one."""
    every = list(parts)
    codes = [part.codes for part in every if part.codes.codes]
    dead = [part.codes.dead for part in every if part.codes.dead is not None]
    clipped = [c.clipped for c in codes if c.clipped is not None]
    return Sums(
        sum(part.parameters for part in every),
        sum(part.bytes for part in every),
        sum(part.bytes_before for part in every),
        sum(part.bits for part in every),
        SquaredNorms(
            sum(part.weight.reference for part in every),
            sum(part.weight.approximation for part in every),
            sum(part.weight.error for part in every),
        ),
        (max(part.spectral[0] for part in every), max(part.spectral[1] for part in every)),
        _pairs([part.activation for part in every]),
        _pairs([part.loss for part in every]),
        CodeFigures(
            sum(c.codes for c in codes),
            sum(c.zeros for c in codes),
            sum(clipped) if codes and len(clipped) == len(codes) else None,
            sum(dead) if dead else None,
        ),
    )


def _pairs(pairs: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    found = [pair for pair in pairs if pair is not None]
    if len(found) < len(pairs):
        return None
    return sum(pair[0] for pair in found), sum(pair[1] for pair in found)


def figures(sums: Sums) -> dict[str, Any]:
    """The fields of ``Figures``."""
    weight, codes = sums.weight, sums.codes
    error = relative(weight.error, weight.reference) or 0.0
    largest, wrong = sums.spectral
    activation = None if sums.activation is None else relative(*sums.activation[::-1])
    loss = None if sums.loss is None else relative(*sums.loss[::-1])
    return {
        "parameters": sums.parameters,
        "bytes": sums.bytes,
        "bytes_before": sums.bytes_before,
        "bits_per_parameter": 8 * sums.bytes / sums.parameters,
        "bits_spent": sums.bits,
        "relative_error": error,
        "snr_db": snr_db(error),
        "energy_kept": weight.approximation / weight.reference if weight.reference else 1.0,
        "cosine": _cosine(weight),
        "spectral_error": wrong / largest if largest else 0.0,
        "activation_error": activation,
        "activation_snr_db": None if activation is None else snr_db(activation),
        "loss_error": loss,
        "zero_share": codes.zeros / codes.codes if codes.codes else None,
        "clipped_share": codes.clipped / codes.codes
        if codes.codes and codes.clipped is not None
        else None,
        "dead_components": codes.dead,
    }


def sums_of(layer: LayerReport) -> Sums:
    """What ``figures`` was told of one layer."""
    reference = layer.norm**2
    return Sums(
        layer.parameters,
        layer.bytes,
        layer.bytes_before,
        layer.bits_spent,
        SquaredNorms(reference, layer.energy_kept * reference, layer.relative_error**2 * reference),
        (layer.spectral_norm, layer.spectral_error * layer.spectral_norm),
        _squares(layer.activation_norm, layer.activation_error),
        _squares(layer.loss_norm, layer.loss_error),
        CodeFigures(
            layer.codes,
            round(layer.codes * (layer.zero_share or 0.0)),
            None if layer.clipped_share is None else round(layer.codes * layer.clipped_share),
            layer.dead_components,
        ),
    )


def _squares(norm: float | None, error: float | None) -> tuple[float, float] | None:
    return None if norm is None or error is None else (norm**2, (norm * error) ** 2)


def _cosine(weight: SquaredNorms) -> float | None:
    """2·⟨a,b⟩ = ‖a‖² + ‖b‖² − ‖a − b‖², of which every term is exact."""
    if weight.approximation <= _NOTHING * weight.reference:
        return None
    size = math.sqrt(weight.reference) * math.sqrt(weight.approximation)
    inner = (weight.reference + weight.approximation - weight.error) / 2
    return min(max(inner / size, -1.0), 1.0)


def relative(error: float, reference: float) -> float | None:
    """√(error / reference); 0 of nothing, None of something made of nothing."""
    if reference:
        return math.sqrt(error / reference)
    return None if error else 0.0


def snr_db(relative_error: float) -> float | None:
    """Signal-to-noise ratio in dB; None when there is no noise."""
    return -20 * math.log10(relative_error) if relative_error > 0 else None
