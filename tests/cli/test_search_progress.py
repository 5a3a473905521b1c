"""Progress of a search by task, and what is told where it is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronq.cli.progress import Work
from kronq.cli.search_progress import SearchProgress, search_progress
from kronq.cli.stopping import stopped_line
from kronq.report.task import Trial


def trial(nbytes: int, *, within: bool) -> Trial:
    return Trial(method="compact", bytes=nbytes, loss_increase=None, within=within)


def test_each_step_says_which_candidate_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SearchProgress(Work("scoring", "texts"), lambda each: f"{each.bytes} bytes")
    progress.begin_next()
    told = [progress.work.description]
    for nbytes, within in ((160, True), (80, False), (113, True), (95, False), (104, True)):
        progress.on_trial(trial(nbytes, within=within))
        told.append(progress.work.description)
        assert progress.work.share < 1
    progress.on_check()
    told.append(progress.work.description)
    assert told == [
        "scoring: candidate 1",
        "scoring: candidate 2 of about 7",
        "scoring: candidate 3 of about 7",
        "scoring: candidate 4 of about 7",
        "scoring: candidate 5 of about 7",
        "scoring: candidate 6 of about 7",
        "scoring: held-out check",
    ]
    assert capsys.readouterr().err.splitlines()[0] == "160 bytes"


def test_a_stopped_search_tells_where_its_candidates_are(tmp_path: Path) -> None:
    def stop(*given: Trial) -> str:
        with (
            pytest.raises(KeyboardInterrupt) as stopped,
            search_progress(str(tmp_path), lambda _: "") as progress,
        ):
            for each in given:
                progress.on_trial(each)
            raise KeyboardInterrupt
        return stopped_line(stopped.value)

    assert stop() == "kronq: stopped"
    kept = stop(trial(160, within=True))
    assert kept.startswith(f"kronq: stopped; {tmp_path}")
    assert kept.endswith("keeps what was tried, and the same command goes on from there")
