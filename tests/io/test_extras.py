"""Missing packages are reported before any work begins, with the extra to install."""

from __future__ import annotations

import sys
import tomllib

import pytest

from kronq.errors import MissingDependencyError
from kronq.io.extras import PACKAGES, require
from tests.paths import ROOT


def test_all_there():
    require("base", "this", "json", "pathlib")


def test_one_missing():
    message = r"this needs packages .* found no owl_runtime .*pip install 'kronq\[base\]'"
    with pytest.raises(MissingDependencyError, match=message):
        require("base", "this", "json", "owl_runtime")


def test_a_missing_torch_comes_with_the_way_to_the_small_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"download\.pytorch\.org/whl/cpu"):
        require("torch", "this")


def test_every_extra_is_one_that_pyproject_has():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    brought = {
        name: " ".join(extras[name] + (extras["genai"] if "kronq[genai]" in extras[name] else []))
        for name in PACKAGES
    }
    for extra, packages in PACKAGES.items():
        assert all(package.replace("_", "-") in brought[extra] for package in packages)
