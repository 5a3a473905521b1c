"""``kronq convert``: writes an adapter in the formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import Command, verbosity
from kronq.errors import KronqError
from kronq.writers.forms import DTYPES, FORMS

if TYPE_CHECKING:
    from kronq.model.adapter import Adapter

ONNX_ADAPTER = "onnx_adapter"


EXAMPLES = """\b
Examples:
  kronq convert my-lokr-4bit.safetensors --to peft -o my-lokr-again
  kronq convert my-lokr/ --to lora -o my-lora --dtype fp16
  kronq convert lycoris.safetensors --to lora -o my-lora \\
      --base-model Qwen/Qwen3-0.6B
  kronq convert factors.safetensors --to lora -o my-lora --alpha 32
  kronq convert small.safetensors --to onnx_adapter \\
      --model app/ -o small.onnx_adapter
"""


@click.command(
    "convert",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Write an adapter as other programs load it.",
)
@click.argument("path")
@click.option(
    "--to",
    type=click.Choice((*FORMS, ONNX_ADAPTER)),
    required=True,
    help="peft: the same factors; lora: the exact LoRA, for programs that know no LoKr; "
    "onnx_adapter: one file that ONNX Runtime swaps into a model with slots.",
)
@click.option("-o", "--output", required=True, help="The folder, or .onnx_adapter file, to write.")
@click.option(
    "--model",
    metavar="FOLDER",
    help="For onnx_adapter: a folder written by 'kronq export --form slots'.",
)
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    help="Dtype of the tensors; fp32 if not given, and always for onnx_adapter.",
)
@click.option(
    "--base-model",
    metavar="NAME",
    help="The base's name for the config. Its folder also tells the dots of flattened names.",
)
@shared.json_option
@shared.force_option
@shared.reading_options
def command(
    path: str,
    to: str,
    output: str,
    model: str | None,
    dtype: str | None,
    base_model: str | None,
    as_json: bool,
    force: bool,
    **reading: Any,
) -> None:
    """Write PATH as a folder that PEFT loads, or as a file that ONNX Runtime loads.

    PATH is any adapter that kronq reads; a packed one is dequantized. Nothing is approximated, but
    for the rounding of --dtype. The LoRA of Kronecker factors has the rank of A times r. An
    .onnx_adapter fits the one model that it was made for.
    """
    if to == ONNX_ADAPTER:
        if model is None:
            raise KronqError("--to onnx_adapter needs --model", expected="a folder with slots")
        if dtype not in (None, "fp32") or base_model is not None:
            raise KronqError("--dtype and --base-model are for --to peft and --to lora")
    elif model is not None:
        raise KronqError("--model is for --to onnx_adapter", found=f"--to {to}")
    shared.check_inputs(path, model)
    from kronq.cli.convert_report import report_sizes
    from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter
    from kronq.readers.load import load
    from kronq.writers.peft import convert

    adapter = shared.read(path, **reading)
    if model is not None:
        write_onnx_adapter(adapter, model, output, force=force)
        report = report_sizes(adapter, adapter, output, Path(output).stat().st_size)
    else:
        convert(adapter, output, to=to, dtype=dtype or "fp32", base_model=base_model, force=force)
        converted = load(output)
        _note_ranks(converted, output)
        report = report_sizes(adapter, converted, output, converted.origin.file_bytes)
    if as_json:
        shared.show_json(report)
        return
    name = "LoKr" if report.family == "kron" else "LoRA"
    shared.show(
        f"wrote {output}: {name}, {report.layers} layers, rank {report.rank}, "
        f"{report.parameters:,} parameters (from {report.parameters_before:,}), "
        f"{report.bytes:,} bytes (from {report.bytes_before:,})"
    )


def _note_ranks(converted: Adapter, output: str) -> None:
    """Says on stderr who cannot read a LoRA whose layers differ in rank."""
    ranks = sorted({delta.rank for delta in converted.values()})
    if converted.family == "lora" and len(ranks) > 1 and verbosity.get() >= 0:
        shared.note(
            f"kronq: note: {output} has layers of rank {', '.join(map(str, ranks))}: "
            "PEFT and llama.cpp read each layer's rank, vLLM takes one for all"
        )
