"""``kronq score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import Command
from kronq.errors import KronqError
from kronq.io.examples import read_examples
from kronq.io.extras import require

if TYPE_CHECKING:
    from kronq.model.adapter import Adapter

EXAMPLES = """\b
Examples:
  kronq score my-lokr/ small.safetensors --base base/ --tasks questions.jsonl
  kronq score my-lokr/ --no-adapter --base base/ --tasks questions.jsonl \\
      --limit 100
  kronq score --base base/ --tasks questions.jsonl --json
"""
BASE_LABEL = "no adapter"


@click.command(
    "score",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Score adapters on questions with known answers.",
)
@click.argument("adapters", nargs=-1)
@click.option(
    "--base",
    required=True,
    metavar="DIR",
    help="The base model's folder.",
)
@click.option(
    "--tasks",
    required=True,
    metavar="FILE.jsonl",
    help="The questions.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N of them.")
@click.option("--no-adapter", is_flag=True, help="Score the base without an adapter as well.")
@shared.execution_options
@shared.json_option
@shared.reading_options
def command(
    adapters: tuple[str, ...],
    base: str,
    tasks: str,
    limit: int | None,
    no_adapter: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Score ADAPTERS, packed or not, on the same questions; without any, the base alone.

    A line of FILE.jsonl, or an item of a JSON list, is {"question", "choices", "answer": index},
    {"prompt", "answer"}, {"prompt", "completion"}, {"instruction", "output"} or {"text"}. NLL is
    the negative log-likelihood of the right answers, per token; accuracy, how often the right
    choice is the likeliest; recall, how often every token of the right answer is. Changes are
    against the first line, with paired 95 % intervals.
    """
    if len(set(adapters)) != len(adapters):
        raise KronqError("the same adapter is given twice", found=", ".join(adapters))
    shared.check_inputs(*adapters, base, tasks)
    require("genai", "scoring")
    from kronq.evaluate.cache import Scorer
    from kronq.evaluate.task_model import TaskModel
    from kronq.evaluate.task_report import score_all

    examples = read_examples(tasks)[:limit]
    reading = shared.reading(others)
    loaded: dict[str, Adapter | None] = {path: shared.read(path, **reading) for path in adapters}
    if no_adapter or not loaded:
        loaded[BASE_LABEL] = None
    model = TaskModel(base, **shared.pop_execution(others))
    with shared.progress_bar("scoring", "texts") as progress:
        progress.begin_parts("adapter", len(loaded))
        scorer = Scorer(model, progress=progress)
        report = score_all(loaded, scorer, examples, data=Path(tasks).name)
    if as_json:
        shared.show_json(report)
        return
    shared.show(report.view())
