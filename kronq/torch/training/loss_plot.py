"""Picture of a training's loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kronq.report.palette import FILE, METHODS
from kronq.report.picture import draw_picture, shade
from kronq.torch.training.checkpoint import History

_WINDOW = 10
"""Steps that the mean is taken over."""


def plot_loss(history: History, path: Path) -> None:
    """Draws the loss of each step, its mean over the last ten, and the bytes of the packed file."""
    draw_picture(path, partial(_draw, history), size=(7.0, 4.0))


def _draw(history: History, figure: Any) -> None:
    losses = history.losses
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
    lines = axes.get_lines()
    if any(history.sizes):
        lines += _draw_sizes(axes.twinx(), history.sizes)
    axes.legend(handles=lines, frameon=False, fontsize=8)


def _draw_sizes(axes: Any, sizes: Sequence[int]) -> Any:
    coded = [(step, size / 1000) for step, size in enumerate(sizes, 1) if size]
    axes.set(ylabel="packed file, KB", ylim=(0, 1.3 * max(size for _, size in coded)))
    return axes.plot(*zip(*coded, strict=True), color=shade(FILE, dark=False), label="bytes")
