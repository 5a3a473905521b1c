"""``kronq inspect``."""

from __future__ import annotations

from typing import Any

import click

from kronq.cli import shared
from kronq.cli.command import Command
from kronq.report.summary import summarize
from kronq.report.tables import summary_table

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
    summary = summarize(shared.read(path, **reading))
    if as_json:
        shared.show_json(summary)
        return
    title = f"{summary.path}: {summary.family} adapter ({summary.format})"
    if summary.base_model:
        title += f", base {summary.base_model}"
    shared.show(title)
    if summary.recipe:
        told = (
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in summary.recipe.items()
            if v not in (None, {}) and k != "task"
        )
        shared.show("quantized: " + ", ".join(told))
        if task := summary.recipe.get("task"):
            shared.show(_task(task))
    shared.show(summary_table(summary))


def _task(task: dict[str, Any]) -> str:
    low, high = (100 * end for end in task["interval"])
    text = (
        f"task: {task['data']}, {task['examples']} held-out examples, "
        f"loss {100 * task['loss_increase']:+.2f} % ({low:+.2f} to {high:+.2f}), "
        f"{100 * task['max_loss_increase']:g} % allowed"
    )
    if task["accuracy"] is not None:
        text += f"; accuracy {100 * task['accuracy']:.1f} %"
    if task["accuracy_before"] is not None:
        text += f", {100 * task['accuracy_before']:.1f} % before"
    return text
