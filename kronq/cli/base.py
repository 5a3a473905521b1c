"""``kronq base``: builds a model folder to run on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kronq.base.builder import AS_IS, PRECISIONS
from kronq.cli import shared
from kronq.cli.command import Command
from kronq.io.extras import require

if TYPE_CHECKING:
    from kronq.base.build import BaseReport

EXAMPLES = """\b
Examples:
  kronq base SmolLM2-135M-Instruct/ -o base
  kronq base model.Q4_1.gguf -o base --force
  kronq base model.Q4_1.gguf -o base-fast --fast
  kronq base Qwen3-0.6B/ -o base-int4 --precision int4
"""


@click.command("base", cls=Command, epilog=EXAMPLES)
@click.argument("source")
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="as-is keeps a GGUF's own blocks (its default); fp32 (a folder's default) equals the "
    "source; fp16 is half of it; int4 is a seventh, and hurts small models.",
)
@click.option("--fuse-qkv", is_flag=True, help="Make q, k and v one MatMul.")
@click.option(
    "--fast",
    is_flag=True,
    help="With as-is or int4: int8 activations, twice as fast; not to judge adapters by.",
)
@shared.force_option
@shared.json_option
def command(
    source: str,
    output: str,
    precision: str | None,
    fuse_qkv: bool,
    fast: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build an onnxruntime-genai model folder from SOURCE, offline.

    SOURCE is a Hugging Face folder (config.json, weights, tokenizer) or a .gguf file. Of
    that Q4_0, Q4_1 and Q8_0 blocks stay as they are, exactly, and other types become float32. The
    folder gets model.onnx, its weights, genai_config.json and the tokenizer.
    """
    shared.check_inputs(source)
    require("base", "building a base")
    from kronq.base.build import build_base

    with shared.progress_bar("building the base") as progress:
        report = build_base(
            source,
            output,
            precision,
            fuse_qkv=fuse_qkv,
            fast=fast,
            force=force,
            progress=progress.step,
        )
    if as_json:
        click.echo(json.dumps(asdict(report), default=str))
        return
    shared.show(
        f"{output}: {report.architecture}, {report.layers} layers, {report.precision}, "
        f"{report.file_bytes:,} bytes, {report.seconds:.1f} s"
    )
    shared.show(*describe_losses(report))


def describe_losses(report: BaseReport) -> Iterator[str]:
    """Yields lines on a GGUF's tensors and on the accuracy of the numbers."""
    from kronq.base.agreement import SUFFICIENT

    if report.precision == AS_IS:
        yield f"kept {report.kept} of {report.kept + len(report.floats)} matrices as they are"
    if report.floats:
        yield f"dequantized to float32: {', '.join(sorted(report.floats))}"
    if report.agreement is not None:
        agreement = report.agreement
        yield (
            f"agreement with float32 on {agreement.tokens} tokens of text: "
            f"{agreement.same_token:.1%} the same likeliest token, KL {agreement.kl:.4f} nats"
        )
        if not agreement.sufficient:
            yield f"warning: below {SUFFICIENT:.0%}; this base answers differently from its source"
