"""``kronq inspect``."""

from __future__ import annotations

from typing import Any

import click

from kronq.cli import shared
from kronq.cli.command import Command

EXAMPLES = """\b
Examples:
  kronq inspect my-lokr/
  kronq inspect my-lokr-4bit.safetensors --json
"""


@click.command(
    "inspect", cls=Command, epilog=EXAMPLES, short_help="Show what an adapter or a packed file is."
)
@click.argument("path")
@shared.json_option
@shared.reading_options
def command(path: str, as_json: bool, **reading: Any) -> None:
    """Show what PATH is: family, layers, shapes, ranks, scales, bytes, how it was quantized.

    Only headers are read, so this is quick however large the adapter is.
    """
    shared.check_inputs(path)
    from kronq.report.summary import summarize

    summary = summarize(shared.read(path, **reading))
    if as_json:
        shared.show_json(summary)
        return
    shared.show(summary.view())
