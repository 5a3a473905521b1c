"""Quantization of an adapter to the smallest file that still does a user's own task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from kronq.errors import StrPath, check_type
from kronq.evaluate.cache import Scorer, TaskCache
from kronq.evaluate.candidates import default_candidates
from kronq.evaluate.search import SearchOptions, SmallestAdapter, search_candidates
from kronq.evaluate.task_budget import TaskBudget
from kronq.evaluate.task_model import TaskModel
from kronq.io.cache import cache_folder
from kronq.io.examples import Example, read_examples
from kronq.model.adapter import Adapter
from kronq.model.second_moments import SecondMoments
from kronq.quantization.quantize import refuse_quantized
from kronq.units import parse_share


def smallest(
    adapter: Adapter,
    base: StrPath | TaskModel,
    tasks: StrPath | Sequence[Example],
    max_loss_increase: float | str | None = None,
    *,
    keep: float | str | None = None,
    method: Any = None,
    second_moments: SecondMoments | None = None,
    options: SearchOptions | None = None,
) -> SmallestAdapter:
    """Quantizes an adapter to the smallest file that still does its task.

    Args:
        adapter: The adapter as trained.
        base: Folder of the ONNX base model, or the loaded model.
        tasks: File of examples (``read_examples``), or the examples.
        max_loss_increase: Allowed increase of the NLL per answer token, relative; without it and
            ``keep`` 0.01, which is 1 %.
        keep: The other budget: share of the adapter's gain over its base, in NLL, that must be
            kept, as 0.99 or ``"99%"``.
        method: The only method to try: ``native``, ``compact``, ``balanced``, ``rtn`` or ``fp16``;
            None for ``compact`` and ``native``.
        second_moments: Second moments from ``calibrate``, for a calibrated candidate.
        options: Further settings.

    Raises:
        KronqError: The adapter is quantized already or does no better than its base on the
            examples, there are too few examples, no candidate stays within the budget, or ``keep``
            is asked for where the examples show no gain.

    Example:
        >>> found = kronq.smallest(adapter, "base", "questions.jsonl", keep=0.99)
        >>> print(kronq.measure(adapter, found.adapter, task=found.result))
        >>> if found.result.within:
        ...     kronq.save(found.adapter, "small.safetensors")
    """
    check_type("adapter", adapter, Adapter)
    refuse_quantized(adapter)
    options = options or SearchOptions()
    if keep is None and max_loss_increase is None:
        max_loss_increase = 0.01
    budget = TaskBudget(
        None if max_loss_increase is None else parse_share(max_loss_increase, "max_loss_increase"),
        None if keep is None else parse_share(keep, "keep"),
    )
    data = Path(tasks).name if isinstance(tasks, str | PathLike) else None
    examples = read_examples(tasks) if isinstance(tasks, str | PathLike) else tasks
    cache = TaskCache(cache_folder("tasks", options.cache))
    model = base if isinstance(base, TaskModel) else TaskModel(base)
    adapter = replace(adapter, base=adapter.base or model.fingerprint(adapter))
    return search_candidates(
        adapter,
        Scorer(model, cache, options.progress),
        examples,
        budget,
        default_candidates(adapter, method, second_moments),
        options=options,
        cache=cache,
        data=data,
    )
