"""``kronq bench``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from kronq.cli import shared
from kronq.genai.bench.bench import BenchReport, Side, bench
from kronq.genai.bench.timing import Spread

EXAMPLES = """\b
Examples:
  kronq bench out/ --base base/ --threads 1
  kronq bench slots/ --adapter small.safetensors --rounds 15
  kronq bench out/ --base base/ --provider openvino --json
"""


@click.command("bench", short_help="Time a model with and without its adapter.", epilog=EXAMPLES)
@click.argument("folder", metavar="OUT_DIR")
@click.option("--base", metavar="BASE", help="The model without the adapter, or without slots.")
@click.option("--adapter", metavar="FILE", help="The adapter for the model's slots.")
@click.option("--prompt-tokens", type=int, default=128, show_default=True, metavar="N")
@click.option("--new-tokens", type=int, default=32, show_default=True, metavar="N")
@click.option("--rounds", type=int, default=7, show_default=True, metavar="N")
@shared.place_options
@shared.json_option
def command(
    folder: str,
    base: str | None,
    adapter: str | None,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    as_json: bool,
    **where: Any,
) -> None:
    """Time the text model in OUT_DIR with its adapter and without it, in one run, taking turns.

    A model with slots is its own base, unless one is given. Ratios are of times, paired within each
    round: 1.03 is 3 % slower with the adapter. Ranges are the 10th and 90th percentiles over the
    rounds; loading times and peak memory are those of fresh processes.
    """
    with shared.progress_bar("timing") as progress:
        report = bench(
            folder,
            base=base,
            adapter=adapter,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            rounds=rounds,
            progress=progress,
            **shared.place(where),
        )
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    shared.show(table(report), *notes(report))


ROWS: dict[str, tuple[Callable[[Side], Spread | None], str]] = {
    "prefill, tokens/s": (lambda side: side.prefill_tokens_per_second, ",.1f"),
    "decode, tokens/s": (lambda side: side.decode_tokens_per_second, ",.1f"),
    "first token, ms": (lambda side: side.first_token_ms, ",.1f"),
    "load, ms": (lambda side: side.load_ms, ",.0f"),
    "peak memory, MB": (lambda side: side.peak_mb, ",.0f"),
}


def table(report: BenchReport) -> Table:
    """Both sides, one figure a row, and what one is of the other."""
    found = Table(box=None, pad_edge=False)
    for column in ("", "with the adapter", "without", "time with ÷ without"):
        found.add_column(column, justify="left" if column == "" else "right")
    ratios = {"prefill, tokens/s": report.prefill_ratio, "decode, tokens/s": report.decode_ratio}
    for name, (figure, style) in ROWS.items():
        ratio = ratios.get(name)
        found.add_row(
            name,
            _range(figure(report.with_adapter), style),
            _range(figure(report.without), style),
            "" if ratio is None else _range(ratio, ".3f"),
        )
    for name, swap in (("swap, ms", report.swap_ms), ("activate, ms", report.activate_ms)):
        if swap is not None:
            found.add_row(name, _range(swap, ",.3f"), "", "")
    return found


def notes(report: BenchReport) -> list[str]:
    """What was measured, and on what."""
    threads = f"{report.threads} threads" if report.threads else "default threads"
    sides = {"with": report.with_adapter, "without": report.without}
    nodes = "; ".join(
        f"{', '.join(f'{count:,} on {name}' for name, count in side.nodes.items())} {which}"
        for which, side in sides.items()
    )
    machine = report.machine
    return [
        f"{report.prompt_tokens} tokens and {report.new_tokens} new, {report.rounds} rounds, "
        f"{threads}, {report.provider}",
        f"nodes: {nodes}",
        f"{machine.cpu}, {machine.cores} cores, {machine.system}, "
        f"onnxruntime {machine.onnxruntime}",
    ]


def _range(spread: Spread | None, style: str) -> str:
    if spread is None:
        return "not told"
    return f"{spread.median:{style}} ({spread.low:{style}} to {spread.high:{style}})"
