"""Summary of a calibration: a few figures for every kind of layer."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kronq.model.layer_names import describe_names, name_template
from kronq.model.matrix import F32
from kronq.model.second_moments import SecondMoments


class MomentSummary(BaseModel):
    """Figures of a second moment M [width, width], or their means over several layers."""

    model_config = ConfigDict(frozen=True)

    width: int
    mean_square: float = Field(description="tr(M) / width: mean square of one entry.")
    directions: float = Field(
        description="tr(M)² / ‖M‖²: number of directions that the energy is spread among, of at "
        "most width; an error elsewhere costs next to nothing."
    )


class LayerGroup(BaseModel):
    """Figures of layers whose names differ only in a number."""

    model_config = ConfigDict(frozen=True)

    layers: str = Field(description="Their names as one template.")
    count: int
    inputs: MomentSummary
    outputs: MomentSummary | None = Field(
        description="Moments of the loss's gradients; null without them."
    )
    sensitivity: float | None = Field(
        description="tr(M)·tr(G) / (2·d_in·d_out), mean of the layers: increase of the loss at "
        "each position by an error of ‖E‖² = 1, spread evenly over ΔW; null without gradients."
    )


class CalibrationSummary(BaseModel):
    """Figures of one calibration."""

    model_config = ConfigDict(frozen=True)

    source: str | None = Field(description="The data file's name.")
    tokens: int = Field(description="Token positions that were read.")
    layers: int
    groups: list[LayerGroup]


def summarize_calibration(moments: SecondMoments) -> CalibrationSummary:
    """Summarizes the moments of every kind of layer."""
    groups: dict[object, list[str]] = {}
    for name, moment in moments.items():
        outputs = None if moment.outputs is None else moment.outputs.shape
        groups.setdefault((name_template(name), moment.inputs.shape, outputs), []).append(name)
    return CalibrationSummary(
        source=moments.source,
        tokens=moments.tokens,
        layers=len(moments),
        groups=[_summarize_group(moments, names) for names in groups.values()],
    )


def _summarize_group(moments: SecondMoments, names: list[str]) -> LayerGroup:
    outputs = [m for m in (moments[name].outputs for name in names) if m is not None]
    inputs = [moments[name].inputs for name in names]
    return LayerGroup(
        layers=describe_names(names),
        count=len(names),
        inputs=_summarize_moment(inputs),
        outputs=_summarize_moment(outputs) if outputs else None,
        sensitivity=_sensitivity(inputs, outputs) if outputs else None,
    )


def _sensitivity(inputs: list[F32], outputs: list[F32]) -> float:
    means = [
        float(np.diag(m).mean(dtype=np.float64) * np.diag(g).mean(dtype=np.float64)) / 2
        for m, g in zip(inputs, outputs, strict=True)
    ]
    return float(np.mean(means))


def _summarize_moment(matrices: list[F32]) -> MomentSummary:
    squares = [float(np.trace(m, dtype=np.float64)) for m in matrices]
    norms = [float(np.linalg.norm(m)) for m in matrices]
    spread = [(s / n) ** 2 if n else 0.0 for s, n in zip(squares, norms, strict=True)]
    width = len(matrices[0])
    mean = float(np.mean(squares)) / width
    return MomentSummary(width=width, mean_square=mean, directions=float(np.mean(spread)))
