"""``kronq calibrate``."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from kronq.calibration.summary import Seen, Side, summarize_moments
from kronq.cli import shared
from kronq.cli.calibrating import (
    Calibrating,
    calibration_options,
    check_calibrating,
    collect_moments,
)
from kronq.cli.command import Command
from kronq.errors import KronqError, printable

EXAMPLES = """\b
Examples:
  kronq calibrate my-lokr/ --calibration notes.txt --base base/
  kronq calibrate my-lokr/ --calibration questions.jsonl --hf-model SmolLM2/ --metric two-sided
"""


@click.command(
    "calibrate",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Run a base on your text, and show what layers see.",
)
@click.argument("adapter")
@calibration_options
@shared.json_option
@shared.reading_options
def command(adapter: str, calibrating: Calibrating, as_json: bool, **reading: Any) -> None:
    """Collect what ADAPTER's layers see of your text, keep it for later, and show it.

    Every verb with --calibration does the same when it has to; this one does only that. 'spread'
    is among how many directions the inputs of a layer are spread, or the loss's gradients at its
    outputs; 'loss per ‖E‖²' what an error E in ΔW, the same everywhere, adds to the loss at each
    token.
    """
    check_calibrating(calibrating)
    moments = collect_moments(calibrating, shared.read(adapter, **reading))
    if moments is None:
        raise KronqError("there is no text to calibrate on", hint="add --calibration FILE")
    seen = summarize_moments(moments)
    if as_json:
        shared.show_json(seen)
        return
    where = "" if seen.source is None else f" of {seen.source}"
    shared.show(seen_table(seen), f"{seen.layers} layers, {seen.tokens:,} tokens{where}")


def seen_table(seen: Seen) -> Table:
    """A line per group of layers."""
    two = any(group.outputs is not None for group in seen.groups)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layers", no_wrap=True)
    last = ("outputs", "spread", "loss per ‖E‖²") if two else ("rms",)
    for column in ("inputs", "spread", *last):
        table.add_column(column, justify="right", no_wrap=True)
    for group in seen.groups:
        name = f"{group.layers} ×{group.count}" if group.count > 1 else group.layers
        cells = _cells(group.inputs)
        if group.outputs is None:
            cells.append(f"{group.inputs.mean_square**0.5:.3g}")
        else:
            cells += [*_cells(group.outputs), f"{group.sensitivity:.3g}"]
        table.add_row(printable(name), *cells)
    return table


def _cells(side: Side) -> list[str]:
    return [f"{side.width:,}", f"{side.directions:.1f}"]
