"""Progress of long work on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kronq.cli.command import verbosity
from kronq.cli.output import note, terminal_width
from kronq.errors import printable
from kronq.fitting import shorten

FIRST_LINE_SECONDS = 10.0
"""Time of silence before the first line, where stderr is no terminal."""
LINE_SECONDS = 30.0
"""Time between lines after it."""
_FEWEST_SECONDS = 2.0
"""Time that work has run before its end is foretold."""
_BAR_WIDTH = 20


@dataclass(eq=False)
class Work:
    """Work that is going on: what it is at, how much of it is done, and how long the rest takes.

    It is called with (units done, units in all), as every ``progress`` of kronq.

    Attributes:
        title: What is done, such as ``quantizing``.
        unit: What is counted, such as ``layers``; empty for nothing in particular.
        what: The step that it is at; empty if there is only one.
        done: Units of this step that are done.
        total: Units of this step in all; None where that is unknown.
        steps: Steps done, and in all as far as is known.
        part: What equal parts are called that begin to count anew, each a step; empty for none.
    """

    title: str
    unit: str = ""
    what: str = ""
    done: int = 0
    total: int | None = None
    steps: tuple[int, int] = (0, 1)
    part: str = ""
    _begin: float = field(default_factory=time.monotonic)

    def __call__(self, done: int, total: int) -> None:
        number, parts = self.steps
        if self.part and done <= self.done and number + 1 < parts:
            self.step(f"{self.part} {number + 2} of {parts}", number + 1, parts)
        self.done, self.total = done, total

    def begin_parts(self, part: str, count: int) -> None:
        """Begins work of equal parts, such as several adapters, each counted from nothing."""
        self.part = part
        self.step(f"{part} 1 of {count}" if count > 1 else "", 0, count)

    def step(self, what: str, done: int = 0, total: int = 1) -> None:
        """Begins a step of the work.

        Args:
            what: The step.
            done: Steps done before it.
            total: Steps in all, as far as is known.
        """
        self.what, self.done, self.total, self.steps = what, 0, None, (done, total)

    @property
    def share(self) -> float:
        """Share of all the work that is done."""
        inside = self.done / self.total if self.total else 0.0
        return min((self.steps[0] + inside) / max(self.steps[1], 1), 1.0)

    @property
    def description(self) -> str:
        return f"{self.title}: {self.what}" if self.what else self.title

    @property
    def count(self) -> str:
        """Units done of all, if they are counted."""
        if not self.total:
            return ""
        return f"{self.done:,}/{self.total:,} {self.unit}".strip()

    @property
    def time(self) -> str:
        """Time left, or the time taken where the rest is unknown."""
        taken = time.monotonic() - self._begin
        if self.share > 0 and taken >= _FEWEST_SECONDS:
            return f"{format_seconds(taken * (1 / self.share - 1))} left"
        return format_seconds(taken)

    def line(self) -> str:
        """Returns the state in one line."""
        return ", ".join(part for part in (self.description, self.count, self.time) if part)


def format_seconds(seconds: float) -> str:
    """Formats a duration: 8 s, 3 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress_bar(title: str, unit: str = "") -> Iterator[Work]:
    """Shows the progress of work while it lasts; nothing with ``-q``."""
    work = Work(title, unit)
    width = terminal_width(sys.stderr)
    if verbosity.get() < 0:
        yield work
    elif width is None:
        with _lines(work):
            yield work
    else:
        with _bar(work, width):
            yield work


@contextmanager
def _lines(work: Work) -> Iterator[None]:
    """Prints a line when the work has taken long, and again from time to time."""
    over = threading.Event()

    def print_lines() -> None:
        wait = FIRST_LINE_SECONDS
        while not over.wait(wait):
            note(f"kronq: {work.line()}")
            wait = LINE_SECONDS

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        over.set()
        printer.join()


@contextmanager
def _bar(work: Work, width: int) -> Iterator[None]:
    """Draws a bar in the last line of the terminal; it vanishes when the work is over."""
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def draw() -> Table:
        bar = ProgressBar(
            100,
            100 * work.share,
            _BAR_WIDTH,
            pulse=work.share == 0,
            animation_time=time.monotonic(),
        )
        rest = "  ".join(part for part in (work.count, work.time) if part)
        room = max(width - _BAR_WIDTH - len(rest) - 5, 8)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(shorten(printable(work.description), room)), bar, Text(rest))
        return grid

    console = Console(stderr=True, width=width, highlight=False, markup=False, emoji=False)
    live = Live(
        console=console,
        get_renderable=draw,
        refresh_per_second=8,
        transient=True,
        redirect_stdout=False,
    )
    with live:
        yield
