"""A refusal of a stranger's file, by its code, for the tests of each reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kronq.errors import KronqError


def assert_code(code: str, read: Callable[[], object], path: Path | None = None) -> None:
    """Checks that ``read`` refuses in one line with the code, and names the path."""
    with pytest.raises(KronqError) as error:
        read()
    line = str(error.value)
    assert error.value.code == code, line
    assert "\n" not in line
    assert path is None or str(path) in line
