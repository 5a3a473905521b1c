"""``kronq convert``: writes an adapter in the formats of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import Command, verbosity
from kronq.errors import KronqError
from kronq.writers.forms import DTYPES, FORMS

if TYPE_CHECKING:
    from kronq.writers.contents import Contents
    from kronq.writers.low_rank import RankLoss

ONNX_ADAPTER = "onnx_adapter"


EXAMPLES = """\b
Examples:
  kronq convert my-lokr-4bit.safetensors --to peft -o my-lokr-again
  kronq convert my-lokr/ --to lora -o my-lora --dtype fp16
  kronq convert my-lokr/ --to lora --rank 16 -o my-lora-r16
  kronq convert my-lokr-4bit.safetensors --to lycoris -o again.safetensors
  kronq convert lycoris.safetensors --to diffusers --base-model unet/ \\
      -o unet-lora.safetensors
  kronq convert my-lokr/ --to gguf --base-model base.gguf -o my.gguf
  kronq convert lycoris.safetensors --to lora -o my-lora \\
      --base-model Qwen/Qwen3-0.6B
  kronq convert factors.safetensors --to lora -o my-lora --alpha 32
  kronq convert small.safetensors --to onnx_adapter \\
      --model app/ -o small.onnx_adapter
"""

_ABOUT = "; ".join(f"{name}: {form.about}" for name, form in FORMS.items())


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
    help=f"{_ABOUT}; onnx_adapter: one file that ONNX Runtime swaps into a model with slots.",
)
@click.option("-o", "--output", required=True, help="The folder or file to write.")
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
    help="The base's name for the config. Its folder also tells the dots of flattened names; for "
    "gguf its folder or .gguf file, which tells the tensors' names.",
)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    metavar="R",
    help="The best LoRA of rank R instead of the exact one; says what that costs.",
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
    rank: int | None,
    as_json: bool,
    force: bool,
    **reading: Any,
) -> None:
    """Write PATH as other programs load it.

    PATH is any adapter that kronq reads; a packed one is dequantized. Nothing is approximated, but
    for the rounding of --dtype, unless --rank is given. The LoRA of Kronecker factors has the rank
    of A times r. An .onnx_adapter fits the one model that it was made for.
    """
    if to == ONNX_ADAPTER:
        if model is None:
            raise KronqError("--to onnx_adapter needs --model", expected="a folder with slots")
        if dtype not in (None, "fp32") or base_model is not None or rank is not None:
            raise KronqError(
                "--dtype, --base-model and --rank are not for --to onnx_adapter",
                expected=f"--to {', '.join(FORMS)}",
            )
    elif model is not None:
        raise KronqError("--model is for --to onnx_adapter", found=f"--to {to}")
    shared.check_inputs(path, model)
    from kronq.cli import convert_report
    from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter
    from kronq.writers.convert import write

    basis = reading.pop("basis")
    takes_cores = to in FORMS and FORMS[to].cores
    adapter = shared.read(path, basis=None if takes_cores else basis, **reading)
    losses: dict[str, RankLoss] = {}
    if model is not None:
        write_onnx_adapter(adapter, model, output, force=force)
        report = convert_report.report_copy(adapter, output, to)
    else:
        written, losses = write(
            adapter,
            output,
            to=to,
            dtype=dtype or "fp32",
            base_model=base_model,
            rank=rank,
            basis=basis,
            force=force,
        )
        if FORMS[to].folder:
            _note_ranks(written, output)
        report = convert_report.report_conversion(adapter, written, output, to, losses)
    if as_json:
        shared.show_json(report)
        return
    if losses:
        shared.show(convert_report.loss_table(losses, every_layer=verbosity.get() > 0))
    shared.show(convert_report.summary_line(report))


def _note_ranks(written: Contents, output: str) -> None:
    """Says on stderr who cannot read a LoRA whose layers differ in rank."""
    ranks = sorted(set(written.ranks.values()))
    if written.family == "lora" and len(ranks) > 1 and verbosity.get() >= 0:
        shared.note(
            f"kronq: note: {output} has layers of rank {', '.join(map(str, ranks))}: "
            "PEFT and llama.cpp read each layer's rank, vLLM takes one for all"
        )
