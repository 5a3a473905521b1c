"""Missing packages are reported before any work begins, with the extra to install."""

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
