"""``kronq bench``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import Command
from kronq.errors import KronqError
from kronq.io.extras import require

if TYPE_CHECKING:
    from kronq.genai.bench.bench_report import BenchReport, VariantReport
    from kronq.genai.bench.beside_llama_cpp import LlamaCppReport
    from kronq.genai.bench.timing import Spread
    from kronq.report.display.table_view import TableView

EXAMPLES = """\b
Examples:
  kronq bench out/ --base base/ --threads 1
  kronq bench slots/ --adapter small.safetensors --rounds 15
  kronq bench out/ --base base/ --provider openvino --json
  kronq bench app/ --pool pool/ --rows 1,8,32 --plot pool.svg
  kronq bench app/ --adapter small.safetensors --llama-cpp model.gguf
"""


@click.command(
    "bench", cls=Command, short_help="Time a model with and without its adapter.", epilog=EXAMPLES
)
@click.argument("folder", metavar="OUT_DIR")
@click.option(
    "--base",
    metavar="DIR",
    help="The model without the adapter, or without slots.",
)
@click.option(
    "--adapter",
    metavar="FILE",
    help="The adapter for the model's slots.",
)
@shared.basis_option
@click.option(
    "--llama-cpp",
    metavar="GGUF",
    help="Time llama.cpp as well, on this file, with the adapter as a LoRA and without.",
)
@click.option(
    "--pool",
    metavar="DIR",
    help="Time batches whose rows take adapters at random from a pool: throughput and latency by "
    "the number of adapters, the base alone beside them.",
)
@click.option(
    "--rows",
    default="1,8,32",
    show_default=True,
    metavar="N,N",
    help="For --pool: rows of the batches.",
)
@click.option("--plot", metavar="FILE.svg|png", help="For --pool: draw both.")
@shared.other_base_option
@click.option("--prompt-tokens", type=int, default=128, show_default=True, metavar="N")
@click.option("--new-tokens", type=int, default=32, show_default=True, metavar="N")
@click.option("--rounds", type=int, default=7, show_default=True, metavar="N")
@shared.execution_options
@shared.json_option
@shared.force_option
def command(folder: str, as_json: bool, **options: Any) -> None:
    """Time the text model in OUT_DIR with its adapter and without it, in one run, in turns.

    A model with slots is its own base, unless one is given. Ratios are of times, paired within each
    round: 1.03 is 3 % slower with the adapter. Ranges are the 10th and 90th percentiles over the
    rounds; loading times and peak memory are those of fresh processes.

    With --pool a step of a batch is timed instead, a token of every row. Every row takes another
    adapter at every step, among 1, 10, 100, … of the pool's and all of them, in turns.
    """
    if options["pool"] is not None:
        from kronq.cli.bench_pool import bench_pool

        bench_pool(folder, options, options["threads"], as_json=as_json)
        return
    if options["plot"] is not None:
        raise KronqError("--plot is for --pool")
    for name in ("pool", "rows", "plot", "force"):
        del options[name]
    execution = shared.pop_execution(options)
    paths = (options[name] for name in ("base", "adapter", "basis", "llama_cpp"))
    shared.check_inputs(folder, *paths)
    require("genai", "timing text")
    if options["llama_cpp"] is not None:
        require("llama-cpp", "--llama-cpp")
    from kronq.genai.bench.bench import bench

    with shared.progress_bar("timing") as progress:
        report = bench(folder, progress=progress, **options, **execution)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    shared.show(bench_table(report))
    if report.llama_cpp is not None:
        shared.show("", llama_cpp_table(report.llama_cpp))


ROWS: dict[str, tuple[Callable[[VariantReport], Spread | None], str]] = {
    "prefill, tokens/s": (lambda variant: variant.prefill_tokens_per_second, ",.1f"),
    "decode, tokens/s": (lambda variant: variant.decode_tokens_per_second, ",.1f"),
    "first token, ms": (lambda variant: variant.first_token_ms, ",.1f"),
    "load, ms": (lambda variant: variant.load_ms, ",.0f"),
    "peak memory, MB": (lambda variant: variant.peak_mb, ",.0f"),
}
"""Title of a row → its figure and format."""


def bench_table(report: BenchReport) -> TableView:
    """Returns a table with a figure a row, for both variants, and the ratio of their times."""
    from kronq.report.display.table_view import TableView

    ratios = {"prefill, tokens/s": report.prefill_ratio, "decode, tokens/s": report.decode_ratio}
    rows = []
    for name, (figure, style) in ROWS.items():
        ratio = ratios.get(name)
        rows.append(
            [
                name,
                _format_spread(figure(report.with_adapter), style),
                _format_spread(figure(report.without), style),
                "" if ratio is None else _format_spread(ratio, ".3f"),
            ]
        )
    for name, spread in (("swap, ms", report.swap_ms), ("activate, ms", report.activate_ms)):
        if spread is not None:
            rows.append([name, _format_spread(spread, ",.3f"), "", ""])
    return TableView(
        ["", "with the adapter", "without", "time with ÷ without"],
        rows,
        after=describe_bench(report),
    )


def llama_cpp_table(report: LlamaCppReport) -> TableView:
    """Returns a table of llama.cpp's speeds, and of its time ÷ that of the model that is timed."""
    from kronq.report.display.table_view import TableView

    figures = {
        "prefill, tokens/s": ("prefill_tokens_per_second", report.prefill_ratio),
        "decode, tokens/s": ("decode_tokens_per_second", report.decode_ratio),
    }
    rows = [
        [
            title,
            _format_spread(getattr(report.with_adapter, name), ",.1f"),
            _format_spread(getattr(report.without, name), ",.1f"),
            _format_spread(ratio, ".3f"),
        ]
        for title, (name, ratio) in figures.items()
    ]
    return TableView(
        ["llama.cpp", "with the adapter", "without", "its time ÷ ours, with"],
        rows,
        after=[f"{report.gguf}, {report.program}"],
    )


def describe_bench(report: BenchReport) -> list[str]:
    """Returns lines with the workload, the nodes and the machine."""
    threads = f"{report.threads} threads" if report.threads else "default threads"
    variants = {"with": report.with_adapter, "without": report.without}
    nodes = "; ".join(
        f"{', '.join(f'{count:,} on {name}' for name, count in variant.nodes.items())} {which}"
        for which, variant in variants.items()
    )
    machine = report.machine
    return [
        f"{report.prompt_tokens} tokens and {report.new_tokens} new, {report.rounds} rounds, "
        f"{threads}, {report.provider}",
        f"nodes: {nodes}",
        f"{machine.cpu}, {machine.cores} cores, {machine.system}, "
        f"onnxruntime {machine.onnxruntime}",
    ]


def _format_spread(spread: Spread | None, style: str) -> str:
    if spread is None:
        return "not reported"
    return f"{spread.median:{style}} ({spread.low:{style}} to {spread.high:{style}})"
