"""``kronq.study.run``: a study from its plan to its table, taken up wherever it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kronq.io.blas import small_matrices
from kronq.io.processes import map_stream
from kronq.report.comparison_models import Baseline
from kronq.study.adapters import Bench
from kronq.study.chain import run_chain
from kronq.study.config import Study
from kronq.study.plan import Sources, make_plan
from kronq.study.published import Needs, Published
from kronq.study.sources import find_base, read_task, read_text
from kronq.study.steps import Chain, Plan
from kronq.study.store import Store

Begin = Callable[[str, int, int], None]
"""Called with (what begins, chains done, chains in all)."""


@dataclass(frozen=True)
class Watch:
    """Who is told how far a study is.

    Attributes:
        begin: Called as a chain begins.
        follow: Called with (units done, units in all) of what is at work in this process.
    """

    begin: Begin = lambda _what, _done, _total: None
    follow: Callable[[int, int], None] = lambda _done, _total: None


def plan_study(study: Study, folder: Path, store: Store, baselines: Mapping[str, Baseline]) -> Plan:
    """Reads what a study names, and plans it.

    Args:
        study: The study.
        folder: What its paths are relative to.
        store: Where it is kept.
        baselines: Name → baseline.

    Raises:
        KronqError: A file is missing, or a value does not do.
    """
    tasks = {label: read_task(task, folder) for label, task in study.tasks.items()}
    texts = {label: read_text(text, folder) for label, text in study.texts.items()}
    base = find_base(study, folder, store.root)
    return make_plan(Sources(study, base, tasks, texts, tuple(baselines)))


def run_plan(
    plan: Plan,
    store: Store,
    baselines: Mapping[str, Baseline],
    *,
    published: Published | None = None,
    jobs: int = 1,
    watch: Watch | None = None,
) -> list[str]:
    """Makes everything of a plan that is not there yet.

    Args:
        plan: The plan; its base is there in both forms.
        store: Where results are kept.
        baselines: Name → baseline.
        published: Results of other studies that are not made again.
        jobs: Processes, each with one thread.
        watch: Who is told how far it is.

    Returns:
        Adapters that could not be trained, and why.
    """
    watch = watch or Watch()
    needs = Needs.of(plan, published or Published())
    bench = Bench(store, plan.base, plan.tasks, plan.study.dtype, baselines, plan.texts, needs)
    waves = [[c for c in plan.chains if (c.start is None) == first] for first in (True, False)]
    done, total, failed = 0, len(plan.chains), []
    for wave in waves:  # what goes on from another adapter needs it
        if jobs > 1 and wave:
            watch.begin(f"{jobs} at a time", done, total)
        for chain, why in _results(bench, wave, jobs, watch, done, total):
            done += 1
            if jobs > 1:
                watch.begin(f"after {chain.name}", done, total)
            failed += [why] if why else []
    return failed


def _results(
    bench: Bench, chains: list[Chain], jobs: int, watch: Watch, done: int, total: int
) -> Iterator[tuple[Chain, str | None]]:
    """Runs chains, and yields each with why it failed."""
    if jobs > 1:
        yield from zip(chains, map_stream(partial(run_chain, bench), chains, jobs), strict=True)
        return
    for place, chain in enumerate(chains, done):
        watch.begin(chain.name, place, total)
        with small_matrices():
            why = run_chain(bench, chain, watch.follow)
        yield chain, why
