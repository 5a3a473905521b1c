"""``kronq inspect``."""

from __future__ import annotations

from typing import Any

import click

from kronq.cli import shared
from kronq.cli.command import Command, option
from kronq.errors import KronqError

EXAMPLES = """\b
Examples:
  kronq inspect my-lokr/
  kronq inspect my-lokr-4bit.safetensors --json
  kronq inspect my-lokr-4bit.safetensors --verify
"""


@click.command(
    "inspect", cls=Command, epilog=EXAMPLES, short_help="Show what an adapter or a packed file is."
)
@click.argument("path")
@option(
    "--verify",
    is_flag=True,
    group=shared.INPUT,
    help="Compare a packed file's checksum, for which all of it is read.",
)
@shared.json_option
@shared.header_options
def command(path: str, as_json: bool, **reading: Any) -> None:
    """Show what PATH is: family, layers, shapes, ranks, scales, bytes, how it was quantized.

    Only headers are read, so this is quick however large the adapter is; --verify reads a packed
    file once, and expands nothing.
    """
    shared.check_inputs(path)
    from kronq.report.summary import summarize

    summary = summarize(shared.read(path, **reading))
    if reading["verify"] and summary.checksum is None:
        raise KronqError(
            "no checksum to compare",
            path=path,
            expected="a packed file of version 4, or of a later one",
            hint="'kronq quantize' writes one",
        )
    if as_json:
        shared.show_json(summary)
        return
    shared.show(summary.view())
