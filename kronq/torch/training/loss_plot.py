"""Picture of a training's loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kronq.report.palette import METHODS
from kronq.report.picture import draw_picture, shade

_WINDOW = 10
"""Steps that the mean is taken over."""


def plot_loss(losses: Sequence[float], path: Path) -> None:
    """Draws the loss of each step, and its mean over the last ten."""
    draw_picture(path, partial(_draw, losses), size=(7.0, 4.0))


def _draw(losses: Sequence[float], figure: Any) -> None:
    axes = figure.subplots()
    colour = shade(METHODS["compact"], dark=False)
    steps = range(1, len(losses) + 1)
    means = [
        sum(part) / len(part) for end in steps if (part := losses[max(0, end - _WINDOW) : end])
    ]
    axes.plot(steps, losses, color=colour, alpha=0.35, linewidth=1, label="a batch")
    axes.plot(steps, means, color=colour, label=f"mean of the last {_WINDOW}")
    axes.set(xlabel="step", ylabel="NLL of an answer's token, nats", ylim=(0, None))
    axes.grid(visible=True, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
