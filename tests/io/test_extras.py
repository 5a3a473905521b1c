"""A package that is missing is told before any work begins, with what to install."""

from __future__ import annotations

import pytest

from kronq.errors import MissingDependencyError
from kronq.io.extras import require


def test_all_there():
    require("base", "this", "json", "pathlib")


def test_one_missing():
    message = r"this needs packages .* found no owl_runtime .*pip install 'kronq\[base\]'"
    with pytest.raises(MissingDependencyError, match=message):
        require("base", "this", "json", "owl_runtime")
