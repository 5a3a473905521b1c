"""Baselines for ``kronq compare``: ``benchmarks.baselines``, which only a checkout of kronq has."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import kronq
from kronq.cli.output import note
from kronq.errors import KronqError

if TYPE_CHECKING:
    from kronq.report.comparison_models import Baseline


def find_baselines() -> Sequence[Baseline]:
    """Loads the baselines that are installed, and names the others on stderr.

    Raises:
        KronqError: kronq does not run from a checkout.
    """
    root = _checkout_root()
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
        note(f"kronq: {line}")
    installed: Sequence[Baseline] = tools.installed()
    return installed


def _checkout_root() -> Path | None:
    root = Path(kronq.__file__).resolve().parents[1]
    return root if (root / "benchmarks" / "baselines").is_dir() else None
