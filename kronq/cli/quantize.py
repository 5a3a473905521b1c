"""``kronq quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.calibration_options import (
    CalibrationOptions,
    calibration_options,
    check_calibration,
    collect_moments,
    moments_for_quantizing,
    require_packages,
)
from kronq.cli.command import OUTPUT, Command, option, verbosity
from kronq.cli.limit_checks import error_above, loss_above
from kronq.cli.method_choice import MethodChoice, choose_method
from kronq.cli.quantize_each import quantize_each
from kronq.cli.quantize_outputs import Outputs
from kronq.cli.stopping import telling
from kronq.cli.task_search import (
    read_task_options,
    run_search,
    task_options,
)
from kronq.errors import KronqError
from kronq.io.extras import require
from kronq.io.files import write_file
from kronq.model.frozen_bases import LORA_XS
from kronq.quantization.config_names import CONFIGS
from kronq.quantization.configs import Tuned
from kronq.units import parse_share, parse_size

if TYPE_CHECKING:
    from kronq.model.adapter import Adapter
    from kronq.model.second_moments import SecondMoments
    from kronq.report.bound import GaussianBound
    from kronq.report.report import Report

SIZE = "Size"
METHOD = "Method"
_METHOD_OPTIONS = (
    "method",
    "bits",
    "bpw",
    "refit",
    "axis",
    "group_size",
    "a_bits",
    "steps",
    "seed",
)

_USED = 0.9
"""Share of the bytes asked for that a file uses at least, if its codes can."""

EXAMPLES = """\b
Examples:
  kronq quantize my-lokr/ -o small.safetensors --bits 3 --layer 'down_proj=4'
  kronq quantize my-lokr/ -o tiny.safetensors --size 60KB --refit unbiased
  kronq quantize generated/ --each -o packed/ --bits 4 --alpha 16
  kronq quantize my-lokr/ -o b.safetensors --calibration notes.txt --base base
  kronq quantize my-lokr/ -o c.safetensors --base base/ --tasks dev.jsonl \\
      --max-loss-increase 1%
"""


@click.command(
    "quantize",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Quantize a trained adapter and pack it into one file.",
)
@click.argument("adapter")
@option(
    "--bits",
    type=int,
    group=SIZE,
    help="Width of codes: 8, 4, 3, 2; 16 is float16.  [default: 4]",
)
@option("--bpw", type=float, metavar="X", group=SIZE, help="Bits per weight of the whole file.")
@option("--size", metavar="150KB", group=SIZE, help="Bytes of the file at most: KB, KiB, MB, MiB.")
@option(
    "--max-error",
    metavar="10%",
    group=SIZE,
    help="Error at most, of ΔW or --calibration; a check with a size.",
)
@task_options
@option(
    "--method",
    type=click.Choice(tuple(CONFIGS)),
    metavar="NAME",
    group=METHOD,
    help="native, compact, tuned, balanced, rtn or fp16.  [default: native for --bits, compact "
    "for another size]",
)
@option(
    "--layer",
    "overrides",
    multiple=True,
    metavar="REGEX=BITS",
    group=METHOD,
    help="Another width for some layers; repeatable.",
)
@option(
    "--refit",
    type=click.Choice(["fit", "unbiased"]),
    metavar="unbiased",
    group=METHOD,
    help="ΔŴ as large as ΔW: keeps more at few bits.",
)
@option(
    "--axis",
    type=click.Choice(["component", "row"]),
    group=METHOD,
    rare=True,
    help="balanced, rtn: a scale for each rank component, or each row.  [default: component]",
)
@option(
    "--group-size",
    type=int,
    group=METHOD,
    rare=True,
    help="balanced, rtn: codes that share a scale.  [default: a channel]",
)
@option(
    "--a-bits",
    type=int,
    group=METHOD,
    rare=True,
    help="balanced, rtn: width of A's codes.  [default: by what it saves]",
)
@option("--steps", type=int, group=METHOD, rare=True, help="tuned: batches.  [default: 60]")
@option("--seed", type=int, group=METHOD, rare=True, help="tuned: order of examples.  [default: 0]")
@calibration_options
@option("-o", "--output", metavar="FILE", group=OUTPUT, help="Packed file, .safetensors.")
@option("--each", is_flag=True, group=OUTPUT, help="Each adapter of a folder, into the folder -o.")
@option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    group=OUTPUT,
    rare=True,
    help="Processes of --each.  [default: one a core]",
)
@option("--report", metavar="FILE.json", group=OUTPUT, help="Write the report.")
@option("--html", metavar="FILE.html", group=OUTPUT, help="Write the report as a page.")
@option("--dry-run", is_flag=True, group=OUTPUT, help="Report, and write nothing.")
@shared.json_option
@shared.force_option
@shared.threads_option
@shared.reading_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    adapter: str,
    calibration: CalibrationOptions,
    dry_run: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Quantize ADAPTER, report what that cost, and pack it into one file.

    ADAPTER is a PEFT folder, a LyCORIS or kohya file, or raw Kron-LoRA factors. With --each it is a
    folder of them, and -o a folder for the packed files.
    """
    if others["workers"] is not None and not others["each"]:
        raise click.UsageError("--workers is for --each")
    search = read_task_options(ctx)
    outputs = Outputs(others["output"], others["report"], others["html"], others["force"])
    if outputs.adapter is None and not dry_run:
        raise click.UsageError("give an output with -o, or --dry-run")
    choice = None if search is not None else _choose(others, calibration)
    tuned = choice is not None and isinstance(choice.config, Tuned)
    check_calibration(calibration, base_used=search is not None, tuned=tuned)
    shared.check_inputs(adapter, *calibration.inputs, others["tasks"])
    if others["each"]:
        if choice is None or calibration.calibration is not None:
            raise click.UsageError("--tasks and --calibration are for one adapter, not for --each")
        quantize_each(ctx, adapter, choice, dry_run=dry_run, as_json=as_json)
        return
    require_packages(calibration, tuned=tuned)
    if search is not None:
        require("genai", "--tasks")
    from kronq.packed.writer import save
    from kronq.report.bound import gaussian_bound
    from kronq.report.measurement import measure, with_error

    outputs.check_names()
    if not dry_run:
        outputs.check_free(adapter)
    basis = others.pop("basis")
    if basis is not None and (search is not None or tuned):
        raise KronqError("--basis stores R alone, which --tasks and --method tuned cannot run")
    source = shared.read(adapter, **shared.reading({**others, "basis": None}))
    moments = collect_moments(calibration, source, tuned=tuned)
    source, moments = _leave_out_bases(source, moments, basis)
    objective = moments_for_quantizing(calibration, moments)
    result = limit = None
    if choice is not None:
        quantized, limit = _quantize(source, choice, objective), choice.max_error
    elif search is not None:
        found = run_search(source, search, objective)
        quantized, result = found.adapter, found.result
    with shared.progress_bar("measuring the error"):
        bound = gaussian_bound(source)
        report = measure(source, quantized, bound=bound, second_moments=moments, task=result)
    quantized = with_error(quantized, report.total.relative_error)
    _show(report, choice, as_json=as_json)
    if outputs.report is not None and not dry_run:
        data = shared.json_text(report) + "\n"
        write_file(outputs.report, data.encode(), force=outputs.force)
    above = error_above(report, limit, calibrated=objective is not None)
    if above is None and result is not None:
        above = loss_above(result)
    if outputs.adapter is not None and above is None and not dry_run:
        save(quantized, outputs.adapter, force=outputs.force)
        if not as_json:
            shared.show(f"wrote {outputs.adapter}, {report.total.bytes:,} bytes")
    if outputs.page is not None and not dry_run:
        _write_page(source, report, bound, outputs)
    if above is not None:
        shared.note(above)
        ctx.exit(1)


def _leave_out_bases(
    source: Adapter, moments: SecondMoments | None, basis: str | None
) -> tuple[Adapter, SecondMoments | None]:
    """Returns what is quantized: with ``--basis`` LoRA-XS's R alone."""
    if basis is None or source.bases is not None:
        if source.origin.system == LORA_XS and verbosity.get() >= 0:
            shared.note(
                "kronq: note: this is LoRA-XS, stored as a LoRA with its frozen bases; --basis "
                "leaves them out, which takes a fraction of the bytes"
            )
        return source, moments
    from kronq.readers.basis import extract_with_moments

    with shared.progress_bar("finding the frozen bases") as progress:
        return extract_with_moments(source, moments, basis, progress=progress)


def _choose(options: dict[str, Any], calibration: CalibrationOptions) -> MethodChoice:
    """Builds the configuration that the options of the method ask for."""
    given = {name: options[name] for name in _METHOD_OPTIONS}
    given["overrides"] = dict(_parse_override(text) for text in options["overrides"])
    if options["size"] is not None:
        given["size"] = parse_size(options["size"], "--size")
    if options["max_error"] is not None:
        given["max_error"] = parse_share(options["max_error"], "--max-error")
    if options["method"] == "tuned":
        if calibration.calibration is None or calibration.hf_model is None:
            raise KronqError(
                "--method tuned distils on text, with gradients",
                hint="add --calibration FILE and --hf-model DIR, the base as a Hugging Face folder",
            )
        given |= {"data": calibration.calibration, "model": calibration.hf_model}
    return choose_method(given)


def _parse_override(text: str) -> tuple[str, int]:
    expression, _, bits = text.rpartition("=")
    if not expression or not bits.isdigit():
        raise KronqError("bad --layer", found=repr(text), expected="REGEX=BITS")
    return expression, int(bits)


def _show(report: Report, choice: MethodChoice | None, *, as_json: bool) -> None:
    """Prints the report, below a line on the method if it was not the task that chose it."""
    if as_json:
        shared.show_json(report)
    else:
        reason = [] if choice is None else [str(choice)]
        shared.show(*reason, *report.views(every_layer=verbosity.get() > 0))
    if choice is not None:
        _note_unused_bytes(choice, report)


def _note_unused_bytes(choice: MethodChoice, report: Report) -> None:
    """Tells on stderr that more bytes were asked for than the method's codes can use."""
    size, bpw = getattr(choice.config, "size", None), getattr(choice.config, "bpw", None)
    asked = size or (bpw or 0) * report.total.parameters / 8
    if report.total.bytes < _USED * asked and verbosity.get() >= 0:
        line = f"{choice.config.method} codes have no use for {asked:,.0f} bytes"
        shared.note(f"kronq: note: {line}; this is their best file")


def _quantize(source: Adapter, choice: MethodChoice, moments: SecondMoments | None) -> Adapter:
    """Quantizes; the error, which takes as long as a report's, is left to the report."""
    from kronq.quantization.quantize import quantize_unmeasured

    title = "tuning" if isinstance(choice.config, Tuned) else "quantizing"
    with shared.progress_bar(title) as progress:
        return quantize_unmeasured(source, choice.config, moments, progress)


def _write_page(source: Adapter, report: Report, bound: GaussianBound, outputs: Outputs) -> None:
    from kronq.report.html import compare_widths, write_html

    kept = f"{outputs.adapter} is written, the page is not" if outputs.adapter else None
    with telling(lambda: kept), shared.progress_bar("drawing the page", "points") as progress:
        curves = compare_widths(source, report, progress)
        write_html(report, str(outputs.page), curves=curves, bound=bound, force=outputs.force)
