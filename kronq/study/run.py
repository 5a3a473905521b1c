"""``kronq.study.run``: a study from its plan to its table, taken up wherever it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kronq.io.blas import small_matrices
from kronq.io.processes import map_stream
from kronq.report.comparison_models import Baseline
from kronq.study.chain import Bench, run_chain
from kronq.study.config import Study
from kronq.study.plan import Plan, make_plan
from kronq.study.sources import find_base, read_task
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
    base = find_base(study, folder, store.root)
    return make_plan(study, base, tasks, tuple(baselines))


def run_plan(
    plan: Plan,
    store: Store,
    baselines: Mapping[str, Baseline],
    *,
    jobs: int = 1,
    watch: Watch | None = None,
) -> list[str]:
    """Makes everything of a plan that is not there yet.

    Args:
        plan: The plan; its base is there in both forms.
        store: Where results are kept.
        baselines: Name → baseline.
        jobs: Processes, each with one thread.
        watch: Who is told how far it is.

    Returns:
        Adapters that could not be trained, and why.
    """
    watch = watch or Watch()
    bench = Bench(store, plan.base, plan.tasks, plan.study.dtype, baselines)
    total, failed = len(plan.chains), []
    if jobs > 1:
        watch.begin(f"{jobs} at a time", 0, total)
        results = map_stream(partial(run_chain, bench), plan.chains, jobs)
        for done, (chain, why) in enumerate(zip(plan.chains, results, strict=True), 1):
            watch.begin(f"after {chain.name}", done, total)
            failed += [why] if why else []
        return failed
    for done, chain in enumerate(plan.chains):
        watch.begin(chain.name, done, total)
        with small_matrices():
            why = run_chain(bench, chain, watch.follow)
        failed += [why] if why else []
    return failed
