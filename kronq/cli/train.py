"""``kronq train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import OUTPUT, Command, option
from kronq.cli.plan import kron_options
from kronq.errors import ArgumentError
from kronq.io.extras import require
from kronq.io.files import check_output

if TYPE_CHECKING:
    from kronq.planning.families import AdapterShape
    from kronq.torch import PeftShape

EXAMPLES = """\b
Examples:
  kronq train SmolLM2/ questions.jsonl -o my-lokr
  kronq train SmolLM2/ notes.txt -o my-lora --family lora --rank 16
  kronq train SmolLM2/ questions.jsonl -o my-kron --family kron --a-in 2
  kronq train SmolLM2/ questions.jsonl -o v --family vera --peft d_initial=0.1
  kronq train SmolLM2/ questions.jsonl -o xs --family lora-xs --target 8KB
"""
FAMILIES = ("lora", "rslora", "kron", "lokr", "lora-xs")
PEFT_FAMILIES = ("vera", "vblora", "unilora", "tinylora", "fourierft")
"""Names of ``kronq.torch.training.peft_families``, which imports torch."""
RECIPE = "Recipe"


@click.command("train", cls=Command, epilog=EXAMPLES, short_help="Train an adapter on your text.")
@click.argument("base")
@click.argument("data")
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@click.option(
    "--family",
    type=click.Choice(FAMILIES + PEFT_FAMILIES),
    metavar="NAME",
    default="lokr",
    show_default=True,
    help=f"{', '.join(FAMILIES)}; or trained by PEFT, {', '.join(PEFT_FAMILIES)}.",
)
@click.option(
    "--rank",
    type=click.IntRange(1),
    metavar="R",
    help="[default: 8; VeRA 256, VB-LoRA and Uni-LoRA 4, TinyLoRA 2]",
)
@click.option("--only", metavar="REGEX", help="Layers in whose names REGEX is found.")
@option("--steps", type=int, default=140, group=RECIPE, show_default=True, help="Batches.")
@option("--batch", type=int, default=8, group=RECIPE, show_default=True, help="Examples in each.")
@option(
    "--rate",
    type=float,
    group=RECIPE,
    metavar="X",
    help="Learning rate.  [default: 0.004; LoRA 0.001, LoRA-XS 0.24/r; of PEFT's, its paper's]",
)
@option("--seed", type=int, default=0, group=RECIPE, show_default=True)
@option("--alpha", type=float, group=RECIPE, help="α.  [default: 2·rank; rslora 2·√8]")
@option(
    "--target",
    metavar="SIZE",
    group=RECIPE,
    help="Train the adapter as codes of a packed file of SIZE, as 8KB, which is written too.",
)
@option("--end", is_flag=True, group=RECIPE, help="Learn to end the text behind an answer.")
@option("--warmup", type=int, group=RECIPE, rare=True, help="Steps until the rate is whole.")
@option("--clip", type=float, default=1.0, group=RECIPE, rare=True, help="Largest gradient norm.")
@option("--dropout", type=float, default=0.0, group=RECIPE, rare=True, help="Of the inputs.")
@option("--length", type=int, default=512, group=RECIPE, rare=True, help="Tokens of a sequence.")
@option(
    "--start",
    metavar="PATH",
    group=RECIPE,
    help="An adapter of the same family and sizes to go on from, quantized or not.",
)
@option(
    "--peft",
    multiple=True,
    metavar="NAME=VALUE",
    group=RECIPE,
    help="A field of PEFT's configuration of its family.",
)
@kron_options
@option(
    "--dtype",
    type=click.Choice(("fp32", "fp16", "bf16")),
    default="fp32",
    show_default=True,
    group=OUTPUT,
    help="Of the adapter's file.",
)
@option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    group=OUTPUT,
    show_default=True,
)
@option(
    "--threads", type=click.IntRange(1), default=1, metavar="N", group=OUTPUT, show_default=True
)
@shared.force_option
@shared.json_option
def command(
    base: str, data: str, output: str, start: str | None, as_json: bool, **options: Any
) -> None:
    """Train an adapter of BASE, a Hugging Face folder, on DATA, and write it to a folder.

    DATA is a .jsonl file with {"question", "choices", "answer"}, {"prompt", "answer"},
    {"prompt", "completion"} or {"text"} on each line, or plain text. Answers alone are learned, of
    plain text all. LoRA, rsLoRA and LoKr become a PEFT folder, as do the families that PEFT
    trains; LoRA-XS its own folder, Kron-LoRA as its paper shapes it a file of factors in the
    folder; train.json has the settings, and loss.svg the loss.

    With --target every step, once the rate has risen, runs the adapter rounded as its packed file
    will be: packed.safetensors in the folder, of SIZE at most.

    A training that was stopped goes on where it was when the same command is given again.
    """
    place = {name: options.pop(name) for name in ("dtype", "device", "threads", "force")}
    check_output(output, force=place["force"])
    shared.check_inputs(base, data, start)
    require("train", "training")
    from kronq.torch import Place, TrainingSettings, train

    family = options.pop("family")
    shape = _shape(family, options)
    settings = TrainingSettings(shape, family == "rslora", **options)
    with shared.progress_bar("training", "steps") as progress:

        def follow(done: int, total: int, loss: float) -> None:
            progress.what = f"loss {loss:.3f}"
            progress(done, total)

        trained = train(base, data, output, settings, Place(**place), start=start, follow=follow)
    if as_json:
        shared.show_json(trained)
        return
    went_on = f", went on from step {trained.resumed}" if trained.resumed else ""
    shared.show(
        f"{trained.path}: {trained.layers} layers, {trained.parameters:,} parameters{went_on}",
        f"loss {trained.first_loss:.3f} → {trained.last_loss:.3f} nats a token "
        f"in {trained.steps} steps; {Path(output, 'loss.svg')} shows it",
        *([f"{trained.packed}: {trained.bytes:,} bytes"] if trained.packed else []),
    )


def _shape(family: str, options: dict[str, Any]) -> AdapterShape | PeftShape:
    """Takes the options of an adapter's sizes out of all, and returns the sizes."""
    rank = options.pop("rank")
    sizes = {name: options.pop(name) for name in ("a_in", "a_out", "b_out", "factor")}
    fields = dict(_field(text) for text in options.pop("peft"))
    if family in PEFT_FAMILIES:
        from kronq.torch import PeftShape

        return PeftShape(family, rank, fields)
    if fields:
        raise ArgumentError(
            "PEFT trains no such family", found=family, expected=", ".join(PEFT_FAMILIES)
        )
    from kronq.planning.families import AdapterShape

    return AdapterShape("lora" if family == "rslora" else family, rank or 8, **sizes)


def _field(text: str) -> tuple[str, Any]:
    """Returns the name and the value of ``NAME=VALUE``: JSON, or text."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ArgumentError("no field of PEFT's", found=text, expected="{peft} NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
