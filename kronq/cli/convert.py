"""``kronq convert``."""

from __future__ import annotations

from typing import Any

import click
from pydantic import BaseModel

from kronq.cli import shared
from kronq.loading import load
from kronq.targets.peft import DTYPES, FORMS, convert


class Written(BaseModel):
    """What was written, and what it was made of."""

    output: str
    family: str
    layers: int
    rank: int
    parameters: int
    bytes: int
    parameters_before: int
    bytes_before: int


EXAMPLES = """\b
Examples:
  kronq convert my-lokr-4bit.safetensors --to peft -o my-lokr-again
  kronq convert my-lokr/ --to lora -o my-lora --dtype fp16
  kronq convert lycoris.safetensors --to lora -o my-lora --base-model Qwen/Qwen3-0.6B
  kronq convert factors.safetensors --to lora -o my-lora --alpha 32
"""


@click.command(
    "convert", epilog=EXAMPLES, short_help="Write an adapter as a PEFT LoKr or LoRA folder."
)
@click.argument("path")
@click.option(
    "--to",
    type=click.Choice(FORMS),
    required=True,
    help="peft: the same factors; lora: the exact LoRA, for programs that know no LoKr.",
)
@click.option("-o", "--output", required=True, help="The folder to write.")
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    default="fp32",
    show_default=True,
    help="How the tensors are stored.",
)
@click.option("--base-model", metavar="NAME", help="The base's name for the config.")
@shared.json_option
@shared.force_option
@shared.reading_options
def command(
    path: str,
    to: str,
    output: str,
    dtype: str,
    base_model: str | None,
    as_json: bool,
    force: bool,
    **reading: Any,
) -> None:
    """Write PATH as a folder that PEFT loads.

    PATH is any adapter that kronq reads; a packed one is dequantized. Nothing is approximated, but
    for the rounding of --dtype. The LoRA of Kronecker factors has the rank of A times r.
    """
    adapter = shared.read(path, **reading)
    convert(adapter, output, to=to, dtype=dtype, base_model=base_model, force=force)
    made = load(output)
    written = Written(
        output=output,
        family=made.family,
        layers=len(made),
        rank=max(delta.rank for delta in made.values()),
        parameters=made.parameters,
        bytes=made.origin.file_bytes,
        parameters_before=adapter.parameters,
        bytes_before=adapter.origin.file_bytes,
    )
    if as_json:
        shared.show_json(written)
        return
    shared.show(
        f"wrote {output}: {'LoKr' if written.family == 'kron' else 'LoRA'}, "
        f"{written.layers} layers, rank {written.rank}, "
        f"{written.parameters:,} parameters (from {written.parameters_before:,}), "
        f"{written.bytes:,} bytes (from {written.bytes_before:,})"
    )
