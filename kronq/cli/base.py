"""``kronq base``: a model folder to run on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
from rich.console import Console
from rich.markup import escape

from kronq.cli import shared
from kronq.runtime.base import PRECISIONS, Progress, build_base

EXAMPLES = """\b
Examples:
  kronq base SmolLM2-135M-Instruct/ -o base
  kronq base model.Q4_1.gguf -o base --force
  kronq base Qwen3-0.6B/ -o base-int4 --precision int4
"""


@click.command("base", epilog=EXAMPLES)
@click.argument("source")
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="fp32 equals the source; fp16 is half of it; int4 is a seventh, and hurts small models.",
)
@click.option("--fuse-qkv", is_flag=True, help="Make q, k and v one MatMul, for no adapters on it.")
@shared.force_option
@shared.json_option
def command(
    source: str, output: str, precision: str, fuse_qkv: bool, force: bool, as_json: bool
) -> None:
    """Build an onnxruntime-genai model folder from SOURCE, offline.

    SOURCE is a Hugging Face folder (config.json, weights, tokenizer) or a .gguf file, which is
    dequantized. The folder gets model.onnx, its weights, genai_config.json and the tokenizer.
    """
    with status("building the base") as progress:
        report = build_base(
            source, output, precision, fuse_qkv=fuse_qkv, force=force, progress=progress
        )
    if as_json:
        click.echo(json.dumps(asdict(report), default=str))
        return
    click.echo(
        f"{output}: {report.architecture}, {report.layers} layers, {precision}, "
        f"{report.file_bytes:,} bytes, {report.seconds:.1f} s"
    )


@contextmanager
def status(title: str) -> Iterator[Progress]:
    """One changing line on stderr that vanishes when the work is done; silent off a terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _line: None
        return
    with console.status(title) as line:
        room = max(console.width - len(title) - 6, 8)
        yield lambda step: line.update(f"{title}: {escape(step[:room])}")
