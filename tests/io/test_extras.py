"""Missing packages are reported before any work begins, with the extra to install."""

from __future__ import annotations

import re
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

    def packages_of(extra: str) -> list[str]:
        """Those of the extras that it names, too."""
        names = (re.fullmatch(r"kronq\[(.+)\]", each) for each in extras[extra])
        others = [name for match in names if match for name in match[1].split(",")]
        return [*extras[extra], *(each for other in others for each in packages_of(other))]

    brought = {name: " ".join(packages_of(name)) for name in PACKAGES}
    for extra, packages in PACKAGES.items():
        assert all(package.replace("_", "-") in brought[extra] for package in packages)
