"""``kronq calibrate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.calibration_options import (
    CalibrationOptions,
    calibration_options,
    check_calibration,
    collect_moments,
    require_packages,
)
from kronq.cli.command import Command
from kronq.errors import KronqError

if TYPE_CHECKING:
    from kronq.calibration.calibration_summary import CalibrationSummary, MomentSummary
    from kronq.report.display.table_view import TableView

EXAMPLES = """\b
Examples:
  kronq calibrate my-lokr/ --calibration notes.txt --base base/
  kronq calibrate my-lokr/ --calibration questions.jsonl \\
      --hf-model SmolLM2/ --metric two-sided
"""


@click.command(
    "calibrate",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Run a base on your text; show second moments.",
)
@click.argument("adapter")
@calibration_options
@shared.json_option
@shared.reading_options
def command(adapter: str, calibration: CalibrationOptions, as_json: bool, **reading: Any) -> None:
    """Collect second moments of ADAPTER's layers on your text, keep them for later, and show them.

    Every verb with --calibration does the same where they are missing. 'spread' is the number of
    directions that a layer's inputs are spread among, or the loss's gradients at its outputs;
    'loss per ‖E‖²' is the increase of the loss at each token by an error E in ΔW, the same
    everywhere.
    """
    check_calibration(calibration)
    shared.check_inputs(adapter, *calibration.inputs)
    require_packages(calibration)
    from kronq.calibration.calibration_summary import summarize_calibration

    moments = collect_moments(calibration, shared.read(adapter, **reading))
    if moments is None:
        raise KronqError("there is no text to calibrate on", hint="add --calibration FILE")
    summary = summarize_calibration(moments)
    if as_json:
        shared.show_json(summary)
        return
    shared.show(calibration_table(summary))


def calibration_table(summary: CalibrationSummary) -> TableView:
    """Returns a table with a row for every group of layers."""
    from kronq.report.display.table_view import TableView

    two_sided = any(group.outputs is not None for group in summary.groups)
    last = ("outputs", "spread", "loss per ‖E‖²") if two_sided else ("rms",)
    rows = []
    for group in summary.groups:
        name = f"{group.layers} ×{group.count}" if group.count > 1 else group.layers
        cells = _moment_cells(group.inputs)
        if group.outputs is None:
            cells.append(f"{group.inputs.mean_square**0.5:.3g}")
        else:
            cells += [*_moment_cells(group.outputs), f"{group.sensitivity:.3g}"]
        rows.append([name, *cells])
    of = "" if summary.source is None else f" of {summary.source}"
    line = f"{summary.layers} layers, {summary.tokens:,} tokens{of}"
    return TableView(["layers", "inputs", "spread", *last], rows, after=[line])


def _moment_cells(moment: MomentSummary) -> list[str]:
    return [f"{moment.width:,}", f"{moment.directions:.1f}"]
