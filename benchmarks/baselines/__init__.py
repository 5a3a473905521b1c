"""Baselines: other tools that quantize adapters, measured at the true bytes of their files."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.baselines import compeft, float16, hqq, loraquant, lordba, olive, torchao
from benchmarks.baselines.baseline import Baseline, BaselineFile

BASELINES: tuple[Baseline, ...] = (
    *float16.SETTINGS,
    *olive.SETTINGS,
    *torchao.SETTINGS,
    *hqq.SETTINGS,
    *loraquant.SETTINGS,
    *lordba.SETTINGS,
    *compeft.SETTINGS,
)
"""All tools at all settings."""

EXTRA = "baselines"

__all__ = ["BASELINES", "EXTRA", "Baseline", "BaselineFile", "installed", "missing"]


def installed() -> tuple[Baseline, ...]:
    """Returns the baselines whose packages are installed."""
    return tuple(baseline for baseline in BASELINES if not baseline.missing)


def missing() -> Iterator[str]:
    """Yields a line for each tool that cannot run here, with the missing packages."""
    absent = {b.tool: b.missing for b in BASELINES if b.missing}
    for tool, packages in absent.items():
        yield f"{tool} is not compared: no {', no '.join(packages)} (pip install 'kronq[{EXTRA}]')"
