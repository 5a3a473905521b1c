"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing with ``-q``."""

from __future__ import annotations

import sys
import time

import pytest

from kronq.cli import progress
from kronq.cli.command import verbosity
from kronq.cli.progress import Work, format_seconds, progress_bar
from tests.cli.command import Terminal


def test_a_pipe_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    with progress_bar("scoring", "texts") as work:
        work.step("candidate 3 of about 9", 2, 9)
        work(40, 192)
        time.sleep(0.3)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == second == "kronq: scoring: candidate 3 of about 9, 40/192 texts, 0 s"


def test_short_work_and_quiet_work_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("quantizing") as work:
        work(1, 2)
    token = verbosity.set(-1)
    try:
        with progress_bar("quantizing") as work:
            work(1, 2)
    finally:
        verbosity.reset(token)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_of_one_line_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("quantizing", "layers") as work:
        work.step("a description that is much longer than the terminal is wide, by far")
        work(3, 7)
        time.sleep(0.3)
    written = terminal.getvalue()
    assert "3/7 layers" in written
    assert "…" in written
    assert written.endswith("\x1b[1A\x1b[2K")  # up to the bar's line, which is cleared


def test_time_left_follows_from_the_share_that_is_done() -> None:
    assert Work("scoring").time == "0 s"
    work = Work("scoring", _begin=time.monotonic() - 80)
    work.step("candidate 2 of about 4", 1, 4)
    assert work.time == "4 min left"
    work(50, 100)
    assert work.share == pytest.approx(0.375)
    assert work.time == "2 min left"


def test_parts_that_count_anew_are_numbered() -> None:
    work = Work("scoring", "texts")
    work.begin_parts("adapter", 3)
    told = []
    for _ in range(3):
        for done in (16, 32, 40):
            work(done, 40)
            told.append((work.what, round(work.share, 2)))
    assert told[::3] == [
        ("adapter 1 of 3", 0.13),
        ("adapter 2 of 3", 0.47),
        ("adapter 3 of 3", 0.8),
    ]
    assert told[-1] == ("adapter 3 of 3", 1.0)


def test_one_part_needs_no_number() -> None:
    work = Work("scoring", "texts")
    work.begin_parts("adapter", 1)
    work(40, 40)
    assert work.description == "scoring"


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (89, "89 s"), (200, "3 min"), (5000, "83 min"),
                          (7300, "2 h 2 min")]
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
