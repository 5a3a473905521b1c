"""Other tools to compare with: ``benchmarks.baselines``, which only a checkout of kronq has."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click

import kronq
from kronq.errors import KronqError
from kronq.report.comparison_models import Baseline


def find_baselines() -> Sequence[Baseline]:
    """Loads the other tools that can run here; those that cannot are named on stderr.

    Raises:
        KronqError: kronq is not run from a checkout.
    """
    root = _checkout()
    if root is None:
        raise KronqError(
            "other tools are compared in a checkout of kronq only",
            found="an installed package",
            hint="clone kronq and install it with: pip install -e '.[baselines]'",
        )
    if str(root) not in sys.path:
        sys.path.append(str(root))
    tools = importlib.import_module("benchmarks.baselines")
    for line in tools.missing():
        click.echo(f"kronq: {line}", err=True)
    found: Sequence[Baseline] = tools.installed()
    return found


def _checkout() -> Path | None:
    root = Path(kronq.__file__).resolve().parents[1]
    return root if (root / "benchmarks" / "baselines").is_dir() else None
