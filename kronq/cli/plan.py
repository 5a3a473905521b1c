"""``kronq plan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kronq.cli import shared
from kronq.cli.command import Command, option

EXAMPLES = """\b
Examples:
  kronq plan mistral-7b/config.json
  kronq plan config.json --family kron --a-out 16 --family lora --rank 8,2
  kronq plan config.json --family lora-xs --rank 16 --size 40KB
  kronq plan config.json --only 'q_proj|v_proj' --json
"""
FAMILIES = ("lora", "kron", "lokr", "lora-xs")
KRON = "Kronecker shapes"
F = TypeVar("F", bound=Callable[..., Any])


def _refuse_zero(_: click.Context, __: click.Parameter, factor: int) -> int:
    if factor == 0:
        raise click.UsageError("--factor is -1, or at least 1")
    return factor


def kron_options(command: F) -> F:
    """Adds the sizes of Kronecker factors, those of ``AdapterShape``."""
    for add in (
        option(
            "--factor",
            type=click.IntRange(-1),
            callback=_refuse_zero,
            default=4,
            metavar="N",
            group=KRON,
            help="lokr: decompose_factor.  [default: 4]",
        ),
        option(
            "--b-out",
            type=click.IntRange(1),
            default=200,
            metavar="N",
            group=KRON,
            help="kron: B1's rows, about.  [default: 200]",
        ),
        option(
            "--a-out",
            type=click.IntRange(1),
            metavar="N",
            group=KRON,
            help="kron: A's rows.  [default: by --b-out]",
        ),
        option(
            "--a-in",
            type=click.IntRange(1),
            default=2,
            metavar="N",
            group=KRON,
            help="kron: A's columns.  [default: 2]",
        ),
    ):
        command = add(command)
    return command


@click.command(
    "plan",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Count what adapters would cost on a model, before any is trained.",
)
@click.argument("config")
@click.option(
    "--family",
    "families",
    multiple=True,
    type=click.Choice(FAMILIES),
    help="May be given more than once.  [default: all]",
)
@click.option("--rank", "ranks", default="8", metavar="R,R,…", help="Ranks.  [default: 8]")
@click.option("--only", metavar="REGEX", help="The layers in whose names REGEX is found.")
@click.option("--size", metavar="SIZE", help="Show the bits per parameter of such a file: 40KB.")
@kron_options
@shared.json_option
def command(
    config: str,
    families: tuple[str, ...],
    ranks: str,
    only: str | None,
    size: str | None,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Count parameters and bytes of adapters on the model that CONFIG describes.

    CONFIG is a Hugging Face config.json, or a folder that holds one; no weights are needed. All
    linear layers but the output embedding are adapted, or those that --only finds. 'kron' is
    Kron-LoRA as its paper shapes it (a_in 1 where d_out is 16,384 or more and no --a-out is given),
    'lokr' the same as PEFT and LyCORIS shape it.
    """
    parsed = _parse_ranks(ranks)
    shared.check_inputs(config)
    from kronq.planning.families import AdapterShape
    from kronq.planning.plan_adapters import plan

    shapes = [AdapterShape(f, rank, **sizes) for f in families or FAMILIES for rank in parsed]
    made = plan(config, shapes, only=only, size=size)
    if as_json:
        shared.show_json(made)
        return
    shared.show(made.view())


def _parse_ranks(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 65_536 for part in parts):
        raise click.UsageError(f"--rank is a list of numbers, as 8,2: {text[:40]!r}")
    return [int(part) for part in parts]
