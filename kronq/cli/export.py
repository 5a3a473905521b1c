"""``kronq export``."""

from __future__ import annotations

from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table

from kronq.cli import shared
from kronq.errors import KronqError, MismatchError, printable
from kronq.onnx import (
    Difference,
    ExportReport,
    Form,
    MatchTable,
    export_onnx,
    load_mapping,
    match_table,
)
from kronq.onnx.folder import GENAI

EXAMPLES = """\b
Examples:
  kronq export adapter.safetensors --onnx base/ -o app/
  kronq export my-lokr/ --onnx base/ -o app/ --kernel
  kronq export my-lokr/ --onnx base/ -o out/ --form branch
  kronq export my-lokr/ --onnx base/model.onnx -o merged/ --form merged
  kronq export my-lora/ --onnx encoder.onnx -o out/ --json
  kronq export my-lora/ --onnx encoder.onnx --dry-run --map places.json
"""


@click.command("export", short_help="Graft an adapter into an ONNX model.", epilog=EXAMPLES)
@click.argument("adapter")
@click.option(
    "--onnx", "base", required=True, metavar="BASE", help="The .onnx file, or its folder."
)
@click.option("-o", "--output", metavar="FOLDER", help="The folder to write.")
@click.option(
    "--form",
    type=click.Choice(get_args(Form)),
    help="slots: factors left open, for adapters that come and go; branch: factors beside the "
    "base's layers; merged: W + ΔW in the base's weights. By default slots for a language model "
    "(a folder with genai_config.json), else branch.",
)
@click.option(
    "--kernel",
    is_flag=True,
    help="With slots: one compiled operator a group of layers, the quickest; by this machine's C "
    "compiler, for machines of its kind.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Check every layer and the whole model before the folder appears.",
)
@click.option(
    "--map",
    "map_file",
    metavar="FILE",
    help='JSON, {"layer": "node or weight"}: where layers go that names do not place.',
)
@click.option("--dry-run", is_flag=True, help="Print where every layer would go; write nothing.")
@shared.json_option
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite an output that exists; merge even where less than 90 % of ΔW is kept.",
)
@shared.reading_options
def command(
    adapter: str,
    base: str,
    output: str | None,
    form: Form | None,
    kernel: bool,
    verify: bool,
    map_file: str | None,
    dry_run: bool,
    as_json: bool,
    force: bool,
    **reading: Any,
) -> None:
    """Graft ADAPTER into an ONNX model.

    ADAPTER is a packed file, or anything that 'kronq quantize' reads. BASE is any ONNX model with
    the layers' weights, quantized or not: found by name, else by shape and place in the graph, else
    by --map. An onnxruntime-genai folder stays one.
    """
    source = shared.read(adapter, **reading)
    mapping = load_mapping(map_file) if map_file else {}
    if dry_run:
        table = match_table(source, base, mapping)
        if as_json:
            shared.show_json(table)
        else:
            shared.show(*places(table))
        # It fails where the export would.
        if table.problem is not None:
            raise MismatchError(table.problem)
        return
    if output is None:
        raise KronqError("no output", expected="-o FOLDER, or --dry-run")
    with Console(stderr=True).status("") as status:
        report = export_onnx(
            source,
            base,
            output,
            form=form,
            kernel=kernel,
            force=force,
            verify=verify,
            mapping=mapping,
            progress=lambda text: status.update(text),
        )
    if as_json:
        shared.show_json(report)
    else:
        shared.show(summary(report), *notes(report, adapter))


def summary(report: ExportReport) -> Table:
    """What was written and what the checks found, one fact a row."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("form", report.form)
    how = ", ".join(f"{count:,} by {kind}" for kind, count in report.matched.items())
    table.add_row("layers matched", how)
    if report.cropped:
        table.add_row("cropped to the base", f"{len(report.cropped):,}")
    for name, size in report.files.items():
        table.add_row(name, f"{size:,} bytes")
    if report.delta_kept is not None:
        least = min(report.layers_kept, key=report.layers_kept.__getitem__)
        worst = f"least {report.layers_kept[least]:.2%}, {least}"
        table.add_row("ΔW kept in the base's rounding", f"{report.delta_kept:.2%} ({worst})")
    checked = report.verification
    if checked is None:
        table.add_row("checks", "not run (--no-verify)")
        return table
    against = "W + ΔW, rounded" if report.form == "merged" else "the normal form"
    table.add_row(f"layers against {against}", _difference(checked.layers))
    if checked.model is not None:
        table.add_row(f"model against its {checked.against} form", _difference(checked.model))
        table.add_row("the adapter's own effect", f"{checked.effect:.3g} of the largest output")
    else:
        table.add_row("whole model", f"not run: {checked.model_skipped}")
    if checked.checker is not None:
        table.add_row("onnx checker", "passed")
    return table


def places(table: MatchTable) -> tuple[Table, str]:
    """Every layer and its place, or the places that it may have; what is left of the base."""
    shown = Table("layer", "shape", "by", "node", "weight", box=None, pad_edge=False)
    for row in table.rows:
        found = row.places or row.candidates
        names = [f"{p.node} ({p.part})" if p.part else p.node for p in found]
        weights = list(dict.fromkeys(p.weight for p in found))
        shown.add_row(
            printable(row.layer),
            "×".join(map(str, row.shape)),
            row.how,
            printable(" or ".join(names)),
            printable(" or ".join(weights)),
        )
    rest = [f"{p.node or p.weight} {'×'.join(map(str, p.shape))}" for p in table.unused]
    return shown, f"without an adapter: {', '.join(rest) or 'none'}"


def notes(report: ExportReport, adapter: str) -> list[str]:
    found = [f"wrote {report.output}, {report.nbytes:,} bytes"]
    if report.form == "slots" and GENAI in report.files:
        found.append(f"run it: kronq chat {report.output} --adapter {adapter}")
    return found


def _difference(found: Difference) -> str:
    return f"largest difference {found.largest:.2g} (relative {found.relative:.2g}, {found.where})"
