"""``kronq basis``: writes the frozen bases of LoRA-XS adapters once for all that share them."""

from __future__ import annotations

import click

from kronq.cli import shared
from kronq.cli.command import Command

EXAMPLES = """\b
Examples:
  kronq basis llama-2-7b/ --adapter my-lora-xs/ -o basis.safetensors
  kronq basis llama-2-7b/ --rank 16 --only '_proj$' -o basis.safetensors
  kronq basis my-lora-xs/ -o basis.safetensors
  kronq quantize my-lora-xs/ --basis basis.safetensors -o small.safetensors
"""


@click.command(
    "basis",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Write frozen bases of LoRA-XS adapters once for all of them.",
)
@click.argument("source")
@click.option("-o", "--output", required=True, metavar="FILE", help="The file, .safetensors.")
@click.option(
    "--adapter",
    metavar="PATH",
    help="A LoRA-XS adapter, or R alone: its layers, rank and settings are taken.",
)
@click.option("--rank", type=click.IntRange(min=1), metavar="R", help="r, without an adapter.")
@click.option("--only", metavar="REGEX", help="The layers in whose names REGEX is found.")
@shared.json_option
@shared.force_option
def command(
    source: str,
    output: str,
    adapter: str | None,
    rank: int | None,
    only: str | None,
    as_json: bool,
    force: bool,
) -> None:
    """Write the frozen bases of LoRA-XS adapters from SOURCE to one file.

    SOURCE is the base as a Hugging Face folder with safetensors, or a LoRA-XS folder, whose own
    lora_A and lora_B are taken. 'kronq quantize --basis' then stores R alone, and whatever runs or
    converts that takes the same file, or the base itself, with --basis.
    """
    shared.check_inputs(source, adapter)
    from kronq.cli.basis_report import report_basis
    from kronq.readers.load import load
    from kronq.writers.basis import write_basis

    given = None if adapter is None else load(adapter)
    with shared.progress_bar("making frozen bases", "layers") as progress:
        write_basis(
            source, output, adapter=given, rank=rank, only=only, force=force, progress=progress
        )
    report = report_basis(output)
    if as_json:
        shared.show_json(report)
        return
    shared.show(f"wrote {output}: {report.bases}, {report.layers:,} layers, {report.bytes:,} bytes")
