"""What other tools make of an adapter, for comparison: at their true bytes, in the same tables."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.baselines import half, hqq, loraquant, olive, torchao
from benchmarks.baselines.baseline import Baseline, BaselineResult

BASELINES: tuple[Baseline, ...] = (
    *half.SETTINGS,
    *olive.SETTINGS,
    *torchao.SETTINGS,
    *hqq.SETTINGS,
    *loraquant.SETTINGS,
)
"""The registry: every tool at every setting."""

EXTRA = "baselines"

__all__ = ["BASELINES", "EXTRA", "Baseline", "BaselineResult", "installed", "missing"]


def installed() -> tuple[Baseline, ...]:
    """Those that can run here."""
    return tuple(baseline for baseline in BASELINES if not baseline.missing)


def missing() -> Iterator[str]:
    """For each tool that cannot run here: what is missing, and how to get it."""
    absent = {b.tool: b.missing for b in BASELINES if b.missing}
    for tool, packages in absent.items():
        yield f"{tool} is not compared: no {', no '.join(packages)} (pip install 'kronq[{EXTRA}]')"
