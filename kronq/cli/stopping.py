"""Ends by Ctrl-C and by signals: unfinished outputs are deleted, and what is kept is told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

CTRL_C = 130
"""Exit code after Ctrl-C; after another signal it is 128 and the signal's number."""


class Stopped(SystemExit):
    """End by a signal other than that of Ctrl-C."""


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise, as Ctrl-C does, so that unfinished outputs are deleted."""
    replaced = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                replaced[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


@contextmanager
def telling(kept: Callable[[], str | None]) -> Iterator[None]:
    """Adds what is kept to the line that ``kronq`` prints when the block is stopped.

    Args:
        kept: Returns one clause, or None where there is nothing to tell.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        if clause := kept():
            stop.add_note(clause)
        raise


def stopped_line(stop: BaseException) -> str:
    """Returns the line that says that the work was stopped, and what is kept."""
    causes = [stop, stop.__cause__, stop.__context__]
    notes = [note for cause in causes for note in getattr(cause, "__notes__", ())]
    return "; ".join(["kronq: stopped", *dict.fromkeys(notes)])


def _stop(number: int, _frame: FrameType | None) -> None:
    """Ends the program once; a second signal must not disturb the tidying up."""
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(128 + number)
