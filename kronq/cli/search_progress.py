"""Progress of a search by task: which candidate it is at, of about how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kronq.cli.output import inform
from kronq.cli.progress import Work, progress_bar
from kronq.cli.stopping import telling
from kronq.io.cache import cache_folder

if TYPE_CHECKING:
    from kronq.report.task import Trial


@dataclass(eq=False)
class SearchProgress:
    """What a search calls as it goes on.

    Attributes:
        work: The progress that is shown.
        describe: Returns a line about a trial.
        trials: The trials so far.
    """

    work: Work
    describe: Callable[[Trial], str]
    trials: list[Trial] = field(default_factory=list)

    def on_trial(self, trial: Trial) -> None:
        """Prints a line about a trial, and begins the next."""
        self.trials.append(trial)
        inform(self.describe(trial))
        self.begin_next()

    def begin_next(self) -> None:
        """Begins a candidate; it and the held-out check are still to come."""
        from kronq.evaluate.outlook import expected_trials

        done, about = len(self.trials), expected_trials(self.trials)
        of = f" of about {about}" if done else ""
        self.work.step(f"candidate {done + 1}{of}", done, about + 1)

    def on_check(self) -> None:
        """Begins the held-out check."""
        self.work.step("held-out check", len(self.trials), len(self.trials) + 1)


@contextmanager
def search_progress(
    cache: str | None, describe: Callable[[Trial], str]
) -> Iterator[SearchProgress]:
    """Shows the progress of a search, and where it is stopped, what is kept of it.

    Args:
        cache: Folder of the candidates; None for the user's cache.
        describe: Returns a line about a trial.
    """
    trials: list[Trial] = []

    def kept() -> str | None:
        folder = cache_folder("tasks", cache)
        return f"{folder} keeps what was tried, and the same command goes on from there"

    with telling(lambda: kept() if trials else None), progress_bar("scoring", "texts") as work:
        progress = SearchProgress(work, describe, trials)
        progress.begin_next()
        yield progress
