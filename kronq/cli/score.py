"""``kronq score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import Command, option
from kronq.errors import KronqError
from kronq.io.examples import read_examples
from kronq.io.extras import require

if TYPE_CHECKING:
    from kronq.model.adapter import Adapter

EXAMPLES = """\b
Examples:
  kronq score my-lokr/ small.safetensors --base base/ --tasks questions.jsonl
  kronq score small.safetensors --reference my-lokr/ --base base/ \\
      --tasks questions.jsonl
  kronq score --base base/ --tasks questions.jsonl --limit 100 --json
"""


@click.command(
    "score",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Score adapters on questions with known answers.",
)
@click.argument("adapters", nargs=-1)
@click.option("--base", required=True, metavar="DIR", help="The base model's folder.")
@click.option("--tasks", required=True, metavar="FILE.jsonl", help="The questions.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N of them.")
@click.option("--reference", metavar="ADAPTER", help="The adapter as trained, to compare with.")
@option("--cache", metavar="DIR", rare=True, help="Cache of scores.  [$KRONQ_CACHE]")
@shared.execution_options
@shared.json_option
@shared.reading_options
def command(
    adapters: tuple[str, ...],
    base: str,
    tasks: str,
    limit: int | None,
    reference: str | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Score ADAPTERS, packed or not, beside the base alone, on the same questions.

    A line of FILE.jsonl, or an item of a JSON list, is {"question", "choices", "answer": index},
    {"prompt", "answer"}, {"prompt", "completion"}, {"instruction", "output"} or {"text"}. NLL is
    the negative log-likelihood of the right answers, per token; accuracy, how often the right
    choice is the likeliest; recall, how often every token of the right answer is. A quantized file
    is compared with the adapter as trained, if that is given: changes, and the share of its gain
    over the base that is kept, have paired 95 % intervals.
    """
    if len(set(adapters)) != len(adapters):
        raise KronqError("the same adapter is given twice", found=", ".join(adapters))
    shared.check_inputs(*adapters, base, tasks, reference)
    require("genai", "scoring")
    from kronq.evaluate.cache import Scorer, TaskCache
    from kronq.evaluate.task_model import TaskModel
    from kronq.evaluate.task_report import score_all
    from kronq.io.cache import cache_folder
    from kronq.quantization.quantize import refuse_quantized
    from kronq.report.display.task_view import BASE

    examples = read_examples(tasks)[:limit]
    reading = shared.reading(others)
    loaded: dict[str, Adapter | None] = {BASE: None}
    if reference is not None:
        loaded[reference] = trained = shared.read(reference, **reading)
        refuse_quantized(trained)
    loaded |= {path: shared.read(path, **reading) for path in adapters if path != reference}
    cache = TaskCache(cache_folder("tasks", others.pop("cache")))
    model = TaskModel(base, **shared.pop_execution(others))
    with shared.progress_bar("scoring", "texts") as progress:
        progress.begin_parts("adapter", len(loaded))
        scorer = Scorer(model, cache, progress)
        report = score_all(loaded, scorer, examples, reference=reference, data=Path(tasks).name)
    if as_json:
        shared.show_json(report)
        return
    shared.show(report.view())
