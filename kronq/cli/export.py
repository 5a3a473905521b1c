"""``kronq export``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import click

from kronq.cli import shared
from kronq.cli.command import Command
from kronq.compiled.platforms import SHIPPED
from kronq.errors import ArgumentError, MismatchError
from kronq.onnx.forms import Form, FormName, Merged, Pooled, Slots
from kronq.onnx.genai_config import GENAI_CONFIG

if TYPE_CHECKING:
    from kronq.onnx.export_report import Difference, ExportReport
    from kronq.onnx.graph.match_table import MatchTable
    from kronq.report.display.table_view import TableView

EXAMPLES = """\b
Examples:
  kronq export adapter.safetensors --base base/ -o app/
  kronq export my-lokr/ --base base/ -o app/ --platform linux-x64,win-x64
  kronq export my-lokr/ --base base/ -o out/ --form branch
  kronq export my-lokr/ --base base/model.onnx -o merged/ --form merged
  kronq export style.safetensors --base sd15-onnx/ -o sd15-style/
  kronq export my-lora/ --base encoder.onnx -o out/ --json
  kronq export my-lora/ --base encoder.onnx --dry-run --map places.json
"""


@click.command(
    "export", cls=Command, short_help="Graft an adapter into an ONNX model.", epilog=EXAMPLES
)
@click.argument("adapter")
@click.option(
    "--base",
    required=True,
    metavar="BASE",
    help="The .onnx file, its folder, or a pipeline's.",
)
@click.option("-o", "--output", metavar="FOLDER", help="The folder to write.")
@click.option(
    "--form",
    type=click.Choice(get_args(FormName)),
    help="slots: open factors, for adapters that are swapped at run time; pool: the same, and each "
    "row of a batch names its own adapter; branch: factors beside the base's layers; merged: "
    "W + ΔW in the base's weights. By default slots for a language model (a folder with "
    "genai_config.json), else branch.",
)
@click.option(
    "--kernel/--no-kernel",
    default=None,
    help="With slots and pool: one compiled operator a group of layers, the fastest, on CPUs; or "
    "ONNX's own operators, which run anywhere, as in browsers. By default compiled where that can "
    "be had; with slots for a language model alone.",
)
@click.option(
    "--platform",
    metavar="NAMES",
    help=f"Put the compiled operator for these in the folder: {', '.join(SHIPPED)}, or all. By "
    "default this machine's.",
)
@click.option(
    "--allow-loss",
    is_flag=True,
    help="With merged: write the base even where its rounding keeps less than 90 % of ΔW.",
)
@click.option(
    "--keep-zeros",
    is_flag=True,
    help="With merged: leave ΔW out where the base's weight is zero, as LoSA trains on a pruned "
    "base.",
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
    help='JSON, {"layer": "node or weight"}, for layers that names do not match; a list of places '
    "divides a fused layer among them.",
)
@click.option("--dry-run", is_flag=True, help="Print every layer's match; write nothing.")
@shared.json_option
@shared.force_option
@shared.reading_options
def command(
    adapter: str, base: str, map_file: str | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Graft ADAPTER into an ONNX model.

    ADAPTER is a packed file, or anything that 'kronq quantize' reads. BASE is any ONNX model with
    the layers' weights, quantized or not: found by name, else by shape and place in the graph, else
    by --map. An onnxruntime-genai folder stays one. Of a pipeline's folder (model_index.json), as
    optimum-onnx writes it, the layers go to the unet or transformer and to the text encoders.
    """
    form = _form(options)
    shared.check_inputs(adapter, base, map_file)

    from kronq.onnx.export import export_onnx
    from kronq.onnx.export_report import ExportReport
    from kronq.onnx.graph.match_by_map import load_mapping
    from kronq.onnx.graph.match_table import match_table
    from kronq.onnx.pipeline.export_pipeline import export_pipeline, match_pipeline
    from kronq.onnx.pipeline.parts import is_pipeline

    source = shared.read(adapter, **shared.reading(options))
    mapping = load_mapping(map_file) if map_file else {}
    pipeline = is_pipeline(base)
    if dry_run:
        if pipeline:
            _show_tables(match_pipeline(source, base, mapping), as_json)
        else:
            _show_matches(match_table(source, base, mapping), as_json)
        return
    if options["output"] is None:
        raise ArgumentError("no output", expected="-o FOLDER, or --dry-run")
    steps = itertools.count(1)
    last = "" if pipeline else f" of {4 if options['verify'] else 2}"
    settings = {name: options[name] for name in ("verify", "force")}
    with shared.progress_bar("exporting") as progress:
        report = (export_pipeline if pipeline else export_onnx)(
            source,
            base,
            options["output"],
            form,
            mapping=mapping,
            progress=lambda text: progress.step(f"step {next(steps)}{last}, {text}"),
            **settings,
        )
    if as_json:
        shared.show_json(report)
    elif isinstance(report, ExportReport):
        shared.show(_summary_view(report), *_next_steps(report, adapter, options["basis"]))
    else:
        views = [line for part, own in report.parts.items() for line in (part, _summary_view(own))]
        shared.show(*views, f"wrote {report.output}, {report.nbytes:,} bytes")


def _form(options: Mapping[str, Any]) -> Form | FormName | None:
    name: FormName | None = options["form"]
    kernel, allow_loss, keep_zeros = (options[n] for n in ("kernel", "allow_loss", "keep_zeros"))
    platforms = [text.strip() for text in (options["platform"] or "").split(",") if text.strip()]
    if name == "pool":
        return Pooled(platforms, kernel)
    asked = kernel is not None or bool(platforms)
    if asked and name not in (None, "slots"):
        raise ArgumentError("the compiled operator is for slots", found=f"the form {name}")
    if allow_loss and name != "merged":
        raise ArgumentError("--allow-loss is for --form merged")
    if keep_zeros and name != "merged":
        raise ArgumentError("--keep-zeros is for --form merged")
    if asked:
        return Slots(kernel, platforms)
    return Merged(allow_loss, keep_zeros) if name == "merged" else name


def _show_tables(tables: Mapping[str, MatchTable], as_json: bool) -> None:
    """Prints the matches in every model of a pipeline, and fails where an export would."""
    if as_json:
        from pydantic import RootModel

        from kronq.onnx.graph.match_table import MatchTable

        shared.show_json(RootModel[dict[str, MatchTable]](dict(tables)))
    else:
        shared.show(
            *(line for part, table in tables.items() for line in (part, _match_view(table)))
        )
    for part, table in tables.items():
        if table.problem is not None:
            raise MismatchError(f"{part}: {table.problem}")


def _show_matches(table: MatchTable, as_json: bool) -> None:
    """Prints the matches, and fails where an export would."""
    if as_json:
        shared.show_json(table)
    else:
        shared.show(_match_view(table))
    if table.problem is not None:
        raise MismatchError(table.problem)


def _match_view(table: MatchTable) -> TableView:
    """Returns every layer with its sites or candidates, and the base's layers that are left."""
    from kronq.report.display.table_view import TableView

    rows = []
    for row in table.rows:
        sites = row.places or row.candidates
        nodes = [f"{site.node} ({site.part})" if site.part else site.node for site in sites]
        weights = list(dict.fromkeys(site.weight for site in sites))
        shape = "×".join(map(str, row.shape))
        rows.append([row.layer, shape, row.how, " or ".join(nodes), " or ".join(weights)])
    rest = [f"{site.node or site.weight} {'×'.join(map(str, site.shape))}" for site in table.unused]
    line = f"without an adapter: {', '.join(rest) or 'none'}"
    columns = ["layer", "shape", "by", "node", "weight"]
    return TableView(columns, rows, after=[line], droppable=["weight", "shape"])


def _summary_view(report: ExportReport) -> TableView:
    """Returns the form, the files and the results of the checks, one a row."""
    from kronq.report.display.table_view import TableView

    matched = ", ".join(f"{count:,} by {how}" for how, count in report.matched.items())
    rows = [("form", report.form), ("layers matched", matched)]
    if report.form in ("slots", "pool"):
        own = ", ".join(report.kernel)
        rows.append(("operator", f"compiled, for {own}" if own else "ONNX's own"))
    if report.cropped:
        rows.append(("cropped to the base", f"{len(report.cropped):,}"))
    if report.trained_parts:
        rows.append(("biases, norms and others put in", f"{len(report.trained_parts):,}"))
    rows += [(name, f"{size:,} bytes") for name, size in report.files.items()]
    if report.delta_kept is not None:
        least = min(report.layers_kept, key=report.layers_kept.__getitem__)
        worst = f"least {report.layers_kept[least]:.2%}, {least}"
        rows.append(("ΔW kept in the base's rounding", f"{report.delta_kept:.2%} ({worst})"))
    return TableView(["item", "value"], [*rows, *_check_rows(report)], titles=False)


def _check_rows(report: ExportReport) -> list[tuple[str, str]]:
    checked = report.verification
    if checked is None:
        return [("checks", "not run (--no-verify)")]
    against = "W + ΔW, rounded" if report.form == "merged" else "the normal form"
    rows = [(f"layers against {against}", _difference_text(checked.layers))]
    if checked.model is not None:
        rows.append((f"model against its {checked.against} form", _difference_text(checked.model)))
        rows.append(("the adapter's own effect", f"{checked.effect:.3g} of the largest output"))
    else:
        rows.append(("whole model", f"not run: {checked.model_skipped}"))
    if checked.zeros is not None:
        rows.append(("zeros of the base", f"{checked.zeros:,}, all of them kept"))
    if checked.checker is not None:
        rows.append(("onnx checker", "passed"))
    return rows


def _next_steps(report: ExportReport, adapter: str, basis: str | None) -> list[str]:
    lines = [f"wrote {report.output}, {report.nbytes:,} bytes"]
    if report.form in ("slots", "pool") and GENAI_CONFIG in report.files:
        bases = "" if basis is None else f" --basis {basis}"
        lines.append(f"run it: kronq chat {report.output} --adapter {adapter}{bases}")
    return lines


def _difference_text(difference: Difference) -> str:
    relative = f"relative {difference.relative:.2g}, {difference.where}"
    return f"largest difference {difference.largest:.2g} ({relative})"
