"""The run of changed files fails for what it has to find."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kronq.errors import FormatError, KronqError
from tests.attacks import attempts
from tests.attacks.attempts import attempt, good_files
from tests.attacks.readers import READERS, Reader


def write(folder: Path) -> None:
    (folder / "x.json").write_text('{"a": [1, 2, {"b": "c"}]}')


def busy() -> None:
    while True:
        pass


def keep_busy() -> None:
    """Catches whatever an ``except Exception`` catches."""
    while True:
        with contextlib.suppress(Exception):
            busy()


def two_lines() -> None:
    class TwoLinesError(KronqError):
        def __str__(self) -> str:
            return "a\nb"

    raise TwoLinesError("")


def of_no_family() -> None:
    raise ValueError("x")


def refused() -> None:
    raise FormatError("x")


def read_with(
    use: Callable[[], object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> attempts.Attempt:
    """Reads a changed file; what its reader does after the good one is ``use``."""
    calls = []

    def read(folder: Path, rng: object) -> None:
        calls.append(folder)
        if len(calls) > 1:
            use()

    monkeypatch.setitem(READERS, "test", Reader(write, read))
    good = good_files("test", folder)
    return attempt("test", 0, good, folder / "mutated")


@pytest.mark.parametrize("use", [busy, keep_busy, two_lines, of_no_family])
def test_what_fails(
    use: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "HANG_SECONDS", 0.05)
    with pytest.raises(AssertionError, match="test"):
        read_with(use, tmp_path, monkeypatch)


def test_too_much_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "SECONDS", 0.0)
    with pytest.raises(AssertionError, match="seconds="):
        read_with(lambda: sum(range(10**5)), tmp_path, monkeypatch)


def test_too_much_memory_even_where_more_was_taken_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.ones(2**27, np.uint8).sum()
    monkeypatch.setattr(attempts, "MEGABYTES", 32)
    with pytest.raises(AssertionError, match="megabytes="):
        read_with(lambda: np.ones(2**26, np.uint8).sum(), tmp_path, monkeypatch)


def test_what_does_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_with(refused, tmp_path / "a", monkeypatch).refused
    done = read_with(lambda: None, tmp_path / "b", monkeypatch)
    assert not done.refused
    assert done.seconds < attempts.SECONDS
    assert done.megabytes < attempts.MEGABYTES
