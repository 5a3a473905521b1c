"""``kronq card``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kronq.cli import shared
from kronq.cli.command import Command

EXAMPLES = """\b
Examples:
  kronq card small.safetensors
  kronq card small.safetensors -o README.md --license apache-2.0
  kronq card my-lokr/ --base-model HuggingFaceTB/SmolLM2-135M-Instruct
"""


@click.command(
    "card", cls=Command, epilog=EXAMPLES, short_help="Write an adapter's model card for the Hub."
)
@click.argument("path")
@click.option("-o", "--output", metavar="README.md", help="The file to write, in place of stdout.")
@click.option("--base-model", metavar="NAME", help="The base's name on the Hub.")
@click.option("--license", metavar="ID", help="The license's name on the Hub, as apache-2.0.")
@shared.force_option
@shared.reading_options
def command(
    path: str,
    output: str | None,
    base_model: str | None,
    license: str | None,
    force: bool,
    **reading: Any,
) -> None:
    """Write the model card of PATH: README.md in the form of the Hugging Face Hub.

    It has what the file itself carries: base, layers, bytes, method, error of ΔW, and the held-out
    check of a search by task. 'kronq convert' writes one into each PEFT folder. Nothing is
    uploaded: 'hf upload OWNER/NAME FOLDER' does that.
    """
    shared.check_inputs(path)
    from kronq.io.files import check_apart, write_file
    from kronq.writers.model_card import Library, model_card

    adapter = shared.read(path, **reading)
    library: Library = "peft" if adapter.origin.format == "peft" else "kronq"
    name = Path(path).name or path
    text = model_card(adapter, name, library=library, base_model=base_model, license=license)
    if output is None:
        click.echo(text, nl=False)
        return
    check_apart(output, adapter.origin.path)
    write_file(output, text.encode(), force=force)
    shared.show(f"wrote {output}")
