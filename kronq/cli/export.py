"""``kronq export``."""

from __future__ import annotations

from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table

from kronq.cli import shared
from kronq.targets.onnx import Difference, ExportReport, Form, export_onnx

EXAMPLES = """\b
Examples:
  kronq export adapter.safetensors --onnx base/ -o out/
  kronq export my-lokr/ --onnx base/model.onnx -o merged/ --form merged
  kronq export my-lokr/ --onnx base/ -o app/ --form slots
  kronq export my-lora/ --onnx encoder.onnx -o out/ --json
"""


@click.command("export", short_help="Graft an adapter into an ONNX model.", epilog=EXAMPLES)
@click.argument("adapter")
@click.option(
    "--onnx", "base", required=True, metavar="BASE", help="The .onnx file, or its folder."
)
@click.option("-o", "--output", required=True, metavar="FOLDER", help="The folder to write.")
@click.option(
    "--form",
    type=click.Choice(get_args(Form)),
    default="branch",
    show_default=True,
    help="branch: factors beside the base's layers; merged: W + ΔW in the base's weights; "
    "slots: factors left open, for adapters that come and go.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Check every layer and the whole model before the folder appears.",
)
@shared.json_option
@shared.force_option
@shared.reading_options
def command(
    adapter: str,
    base: str,
    output: str,
    form: Form,
    verify: bool,
    as_json: bool,
    force: bool,
    **reading: Any,
) -> None:
    """Graft ADAPTER into an ONNX model.

    ADAPTER is a packed file, or anything that 'kronq quantize' reads. BASE is any ONNX model whose
    MatMul and Gemm weights have the names of the layers; a onnxruntime-genai folder stays one.
    """
    source = shared.read(adapter, **reading)
    with Console(stderr=True).status("") as status:
        report = export_onnx(
            source,
            base,
            output,
            form=form,
            force=force,
            verify=verify,
            progress=lambda text: status.update(text),
        )
    if as_json:
        shared.show_json(report)
    else:
        shared.show(summary(report), *notes(report))


def summary(report: ExportReport) -> Table:
    """What was written and what the checks found, one fact a row."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("form", report.form)
    table.add_row("layers matched", f"{len(report.layers):,}")
    if report.cropped:
        table.add_row("cropped to the base", f"{len(report.cropped):,}")
    for name, size in report.files.items():
        table.add_row(name, f"{size:,} bytes")
    checked = report.verification
    if checked is None:
        table.add_row("checks", "not run (--no-verify)")
        return table
    against = "W + ΔW" if report.form == "merged" else "the normal form"
    table.add_row(f"layers against {against}", _difference(checked.layers))
    if checked.model is not None:
        other = "branch" if report.form == "merged" else "merged"
        table.add_row(f"model against its {other} form", _difference(checked.model))
        table.add_row("the adapter's own effect", f"{checked.effect:.3g} of the largest output")
    else:
        table.add_row("whole model", f"not run: {checked.model_skipped}")
    if checked.delta_lost is not None:
        table.add_row("lost of ΔW by rounding", f"{checked.delta_lost:.2%}")
    if checked.checker is not None:
        table.add_row("onnx checker", "passed")
    return table


def notes(report: ExportReport) -> list[str]:
    return [f"wrote {report.output}, {report.nbytes:,} bytes"]


def _difference(found: Difference) -> str:
    return f"largest difference {found.largest:.2g} (relative {found.relative:.2g}, {found.where})"
