"""``kronq quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kronq.cli import shared, task_options
from kronq.cli.calibrating import (
    Calibrating,
    calibration_options,
    check_calibrating,
    collect_moments,
    steering,
)
from kronq.cli.making import choose, make
from kronq.errors import KronqError
from kronq.io.files import check_apart, check_output, write_file
from kronq.packed import check_name, save
from kronq.quantization.configs import METHODS, Tuned
from kronq.readers.peft_config import CONFIG, WEIGHTS
from kronq.report import gaussian_bound, measure
from kronq.report.html import check_page, other_widths, write_html
from kronq.report.tables import report_notes, report_table
from kronq.units import parse_share

EXAMPLES = """\b
Examples:
  kronq quantize my-lokr/ -o my-lokr-4bit.safetensors
  kronq quantize my-lokr/ -o small.safetensors --bits 3 --layer 'down_proj=4'
  kronq quantize my-lokr/ --bits 2 --dry-run
  kronq quantize my-lokr/ -o a.safetensors --max-error 15% --report a.json
  kronq quantize my-lokr/ -o tiny.safetensors --size 150KB --refit unbiased
  kronq quantize my-lokr/ -o b.safetensors --bpw 2.5 --calibration notes.txt --base base/
  kronq quantize my-lokr/ -o c.safetensors --size 40KB --method tuned \\
      --calibration train.jsonl --hf-model SmolLM2-135M-Instruct/
  kronq quantize my-lokr/ -o b.safetensors --base base/ --tasks dev.jsonl --max-loss-increase 1%
  kronq quantize my-lokr/ -o a.safetensors --html a.html
"""


@click.command(
    "quantize", epilog=EXAMPLES, short_help="Quantize a trained adapter and pack it into one file."
)
@click.argument("adapter")
@click.option("-o", "--output", help="The packed file to write, .safetensors.")
@click.option(
    "--bits", type=int, help="Width of codes: 8, 4, 3 or 2, or 16 for float16.  [default: 4]"
)
@click.option("--bpw", type=float, metavar="X", help="Bits per weight of the whole file.")
@click.option("--size", metavar="150KB", help="Size of the file at most: B, KB, KiB, MB or MiB.")
@click.option(
    "--max-error",
    metavar="X",
    help="Largest relative error of ΔW, 0.1 or 10%: the smallest file within it. Beside another "
    "size, no file is written above it (exit code 1).",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="native: a width for each channel, nothing to decode. compact: entropy-coded, the "
    "smallest file. tuned: compact, distilled on --calibration with --hf-model. balanced: one "
    "width, fitted scales. rtn: plain rounding.  [default: compact for --bpw, --size and "
    "--max-error, else native]",
)
@click.option(
    "--refit",
    type=click.Choice(["fit", "unbiased"]),
    help="fit: least error. unbiased: ΔŴ as large as ΔW, which keeps more of a task at few bits.  "
    "[default: fit]",
)
@click.option("--steps", type=click.IntRange(min=1), help="tuned: how many batches.  [default: 60]")
@click.option("--seed", type=int, help="tuned: of the order of examples.  [default: 0]")
@click.option(
    "--axis",
    type=click.Choice(["component", "row"]),
    help="balanced, rtn: a scale for each rank component, or each row.  [default: component]",
)
@click.option(
    "--group-size", type=int, help="balanced, rtn: codes that share a scale.  [default: a channel]"
)
@click.option("--a-bits", type=int, help="balanced, rtn: width of A's codes.  [default: 16]")
@click.option(
    "--layer", "layers", multiple=True, metavar="REGEX=BITS", help="Another width for some layers."
)
@calibration_options
@task_options.options
@click.option("--report", metavar="FILE.json", help="Write the report.")
@click.option("--html", metavar="FILE.html", help="Write the report as a page, with other widths.")
@click.option("--dry-run", is_flag=True, help="Report, and write nothing.")
@shared.json_option
@shared.force_option
@shared.reading_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    adapter: str,
    output: str | None,
    layers: tuple[str, ...],
    calibrating: Calibrating,
    report: str | None,
    html: str | None,
    dry_run: bool,
    as_json: bool,
    force: bool,
    **others: Any,
) -> None:
    """Quantize ADAPTER, say what that cost, and pack it into one file.

    ADAPTER is a PEFT folder, a LyCORIS LoKr file or raw Kron-LoRA factors.
    """
    asked = task_options.read_task_options(ctx)
    if output is None and not dry_run:
        raise click.UsageError("give an output with -o, or --dry-run")
    max_error = others["max_error"]
    given = {
        **others,
        "max_error": None if max_error is None else parse_share(max_error, "--max-error"),
        "overrides": dict(_layer(text) for text in layers),
    }
    choice = choose(given, calibrating)
    tuned = isinstance(choice.config, Tuned)
    check_calibrating(calibrating, base_serves=asked is not None, tuned=tuned)
    if output is not None:
        check_name(output)
    if html is not None:
        check_page(html)
    _check_apart(("-o", output), ("--report", report), ("--html", html))
    for path in (output, report, html):
        if path is not None and not dry_run:
            check_apart(path, *(Path(adapter) / part for part in ("", CONFIG, WEIGHTS)))
            check_output(path, force=force)
    source = shared.read(adapter, **shared.reading(others))
    moments = collect_moments(calibrating, source, tuned=tuned)
    found = None
    if asked is not None:
        from kronq.cli import task_search

        found = task_search.search(source, asked, steering(calibrating, moments))
        quantized = found.adapter
    else:
        quantized = make(source, choice, steering(calibrating, moments))
    bound = gaussian_bound(source)
    result = measure(source, quantized, bound=bound, moments=moments)
    failed = choice.max_error is not None and result.total.relative_error > choice.max_error
    if found is not None:
        task_search.show(found, result, as_json=as_json)
    elif as_json:
        shared.show_json(result)
    else:
        shared.show(str(choice), report_table(result), *report_notes(result))
    if report is not None and not dry_run:
        write_file(report, (result.model_dump_json(indent=2) + "\n").encode(), force=force)
    if html is not None and not dry_run:
        with shared.progress_bar("other widths") as progress:
            widths = other_widths(source, str(result.method), progress)
        write_html(result, html, comparison=widths, bound=bound, force=force)
    if failed:
        click.echo(
            f"kronq: the relative error {result.total.relative_error:.4g} is above {max_error}; "
            "no adapter was written",
            err=True,
        )
        ctx.exit(1)
    if found is not None and not found.result.within:
        click.echo(task_search.missed_line(found.result), err=True)
        ctx.exit(1)
    if output is not None and not dry_run:
        save(quantized, output, force=force)
        if not as_json:
            shared.show(f"wrote {output}, {result.total.bytes:,} bytes")


def _check_apart(*outputs: tuple[str, str | None]) -> None:
    """Refuses two outputs that are one file."""
    found: dict[Path, str] = {}
    for option, path in outputs:
        if path is None:
            continue
        other = found.setdefault(Path(path).resolve(), option)
        if other != option:
            raise KronqError(f"{other} and {option} are the same file", path=path)


def _layer(text: str) -> tuple[str, int]:
    expression, _, bits = text.rpartition("=")
    if not expression or not bits.isdigit():
        raise KronqError("bad --layer", found=repr(text), expected="REGEX=BITS")
    return expression, int(bits)
