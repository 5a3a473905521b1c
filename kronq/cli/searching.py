"""``kronq quantize --tasks``: the candidates and what is printed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click
import numpy as np
from pydantic import BaseModel

from kronq.cli import shared
from kronq.cli.task_options import Asked
from kronq.errors import KronqError
from kronq.evaluate.cache import Cache, Scorer, default_folder
from kronq.evaluate.search import Found, smallest
from kronq.evaluate.search_result import TaskResult
from kronq.evaluate.tables import percent, result_line, result_table, trial_line
from kronq.evaluate.task_model import TaskModel
from kronq.evaluate.trials import Dial, Fixed
from kronq.io.examples import read_examples
from kronq.model.adapter import Adapter
from kronq.model.second_moments import Moments
from kronq.quantization import quantize
from kronq.report.measurement import Report

WIDTHS = (8, 4, 3, 2)


class Searched(BaseModel):
    """What ``--json`` prints: what the task lost, and what the weights did."""

    task: TaskResult
    report: Report


def search(adapter: Adapter, asked: Asked, moments: Moments | None = None) -> Found:
    """The smallest file; a line on stderr for every trial."""
    if adapter.recipe is not None and adapter.recipe.method != "fp16":
        raise KronqError(
            "the adapter is quantized already",
            path=adapter.origin.path,
            hint="quantize the adapter as it was trained",
        )
    examples = read_examples(asked.tasks)
    kept = Cache(default_folder() if asked.cache is None else Path(asked.cache))
    model = TaskModel(asked.base)
    with shared.progress_bar("scoring") as progress:
        return smallest(
            adapter,
            Scorer(model, kept, progress),
            examples,
            asked.budget,
            candidates(adapter, asked.method, moments),
            judge=asked.judge,
            data=Path(asked.tasks).name,
            cache=kept,
            progress=lambda trial: click.echo(trial_line(trial), err=True),
        )


def candidates(
    adapter: Adapter, method: Any = None, moments: Moments | None = None
) -> list[Dial | Fixed]:
    """Compact codes of any size and native ones of every width, or those of one method.

    Unbiased compact codes come first: they keep most of a task. With calibration the others are
    judged by it.
    """

    def dial(name: str, refit: Any, seen: Moments | None) -> Dial:
        def filled(size: int) -> Adapter:
            return quantize(adapter, method="compact", size=size, refit=refit, moments=seen)

        return Dial(name, filled, key="" if seen is None else identity(seen))

    def width(name: Any, bits: int) -> Fixed:
        return Fixed(f"{name} {bits} bit", lambda: quantize(adapter, bits, method=name))

    found: list[Dial | Fixed] = []
    if method in (None, "auto", "compact"):
        found.append(dial("compact, unbiased", "unbiased", None))
        if moments is not None:
            found.append(dial("compact, calibrated, unbiased", "unbiased", moments))
        found.append(dial("compact", "fit", None))
    if method == "fp16":
        found.append(Fixed("fp16", lambda: quantize(adapter, method="fp16")))
    elif method != "compact":
        found += [width("native" if method in (None, "auto") else method, n) for n in WIDTHS]
    return found


def identity(moments: Moments) -> str:
    """What tells one calibration from another, for a cache."""
    digest = hashlib.blake2b(digest_size=16)
    seen: set[int] = set()
    for moment in moments.values():
        for array in (moment.inputs, moment.outputs):
            if array is not None and id(array) not in seen:
                seen.add(id(array))
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def show(found: Found, report: Report, *, as_json: bool) -> None:
    """The check, and what the weights lost."""
    if as_json:
        shared.show_json(Searched(task=found.result, report=report))
        return
    total = report.total
    shared.show(
        result_table(found.result, total.bytes, total.bytes_before), result_line(found.result)
    )


def missed(result: TaskResult) -> str:
    """Why no adapter was written."""
    return (
        f"kronq: on held-out examples the loss grew by {percent(result.change.loss_increase)}, "
        f"more than {100 * result.max_loss_increase:g} %; no adapter was written "
        "(hint: more questions make the choice surer, a larger budget the file smaller)"
    )
