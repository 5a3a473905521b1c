"""``kronq quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kronq.cli import shared, task_options
from kronq.errors import KronqError
from kronq.files import check_apart, check_output, write_file
from kronq.metrics import gaussian_bound, measure, stamp
from kronq.metrics.html import check_page, other_widths, write_html
from kronq.metrics.tables import report_notes, report_table
from kronq.packed import check_name, save
from kronq.quantization import quantize
from kronq.sources.peft import CONFIG, WEIGHTS

WIDTHS = click.Choice(["16", "8", "4", "3", "2"])
UNITS = {"MB": 10**6, "KB": 10**3, "B": 1}


EXAMPLES = """\b
Examples:
  kronq quantize my-lokr/ -o my-lokr-4bit.safetensors
  kronq quantize my-lokr/ -o small.safetensors --bits 3 --layer 'down_proj=4'
  kronq quantize my-lokr/ --bits 2 --dry-run
  kronq quantize my-lokr/ -o a.safetensors --max-error 15% --report a.json
  kronq quantize my-lokr/ -o tiny.safetensors --method compact --size 150KB
  kronq quantize my-lokr/ -o b.safetensors --base base/ --tasks dev.jsonl --max-loss-increase 1%
  kronq quantize my-lokr/ -o a.safetensors --html a.html
"""


@click.command(
    "quantize", epilog=EXAMPLES, short_help="Quantize a trained adapter and pack it into one file."
)
@click.argument("adapter")
@click.option("-o", "--output", help="The packed file to write, .safetensors.")
@click.option(
    "--bits",
    default="4",
    show_default=True,
    help="Width of B's codes: 16, 8, 4, 3 or 2. compact: bits of the file by parameter, as 2.5.",
)
@click.option("--size", metavar="150KB", help="compact: the file's size at most; kB is 1000 bytes.")
@click.option(
    "--method",
    type=click.Choice(["balanced", "rtn", "fp16", "compact"]),
    default="balanced",
    show_default=True,
    help="balanced: fitted scales in the better gauge; rtn: plain rounding as trained; "
    "compact: entropy-coded, the smallest file.",
)
@click.option(
    "--axis",
    type=click.Choice(["component", "row"]),
    default="component",
    show_default=True,
    help="What shares a scale: a rank component, or a row of each factor.",
)
@click.option("--group-size", type=int, help="Codes that share a scale.  [default: a channel]")
@click.option("--a-bits", type=WIDTHS, default="16", show_default=True, help="Width of A's codes.")
@click.option(
    "--layer", "layers", multiple=True, metavar="REGEX=BITS", help="Another width for some layers."
)
@click.option("--max-error", metavar="X", help="Exit 1, writing no adapter, above it: 0.1 or 10%.")
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
    bits: str,
    size: str | None,
    method: Any,
    axis: Any,
    group_size: int | None,
    a_bits: str,
    layers: tuple[str, ...],
    max_error: str | None,
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
    asked = task_options.asked(ctx)
    if method != "compact":
        WIDTHS.convert(bits, next(p for p in ctx.command.params if p.name == "bits"), ctx)
    if output is None and not dry_run:
        raise click.UsageError("give an output with -o, or --dry-run")
    if size is not None:
        if method != "compact":
            raise click.UsageError("--size needs --method compact")
        if ctx.get_parameter_source("bits") is not ParameterSource.DEFAULT:
            raise click.UsageError("give --bits or --size")
    limit = None if max_error is None else shared.share(max_error, "--max-error")
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
    found = None
    if asked is not None:
        from kronq.cli import searching

        found = searching.search(source, asked)
        quantized = found.adapter
    else:
        with shared.progress_bar("quantizing") as progress:
            quantized = quantize(
                source,
                _bits(bits),
                method=method,
                size=None if size is None else _size(size),
                axis=axis,
                group_size=group_size,
                a_bits=int(a_bits),
                layer_bits=dict(_layer(text) for text in layers),
                progress=progress,
            )
    bound = gaussian_bound(source)
    result = measure(source, quantized, bound=bound)
    failed = limit is not None and result.total.relative_error > limit
    if found is not None:
        searching.show(found, result, as_json=as_json)
    elif as_json:
        shared.show_json(result)
    else:
        shared.show(report_table(result), *report_notes(result))
    if report is not None and not dry_run:
        write_file(report, (result.model_dump_json(indent=2) + "\n").encode(), force=force)
    if html is not None and not dry_run:
        with shared.progress_bar("other widths") as progress:
            widths = other_widths(source, method, progress)
        write_html(result, html, comparison=widths, bound=bound, force=force)
    if failed:
        click.echo(
            f"kronq: the relative error {result.total.relative_error:.4g} is above {max_error}; "
            "no adapter was written",
            err=True,
        )
        ctx.exit(1)
    if found is not None and not found.result.within:
        click.echo(searching.missed(found.result), err=True)
        ctx.exit(1)
    if output is not None and not dry_run:
        save(stamp(quantized, result.total.relative_error), output, force=force)
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


def _bits(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise KronqError("bad --bits", found=repr(text), expected="a number, as 4 or 2.5") from None
    return int(value) if value.is_integer() else value


def _size(text: str) -> int:
    unit = next((u for u in UNITS if text.upper().endswith(u)), "")
    try:
        value = float(text[: len(text) - len(unit)])
        if not 1 <= value * UNITS.get(unit, 1) < 2**53:
            raise ValueError
    except ValueError:
        raise KronqError(
            "bad --size", found=repr(text), expected="bytes, as 150KB, 1.5MB or 150000"
        ) from None
    return int(value * UNITS.get(unit, 1))
