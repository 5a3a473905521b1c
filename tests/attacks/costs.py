"""Time and memory of this process, as one input costs them."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROC = Path("/proc/self")


class HangError(BaseException):
    """What takes too long is stopped by it; no handler of ``Exception`` catches it."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Stops Python code that takes so much CPU time, where the system can."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise HangError(f"{seconds} s of CPU time are over")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def reset_peak() -> float:
    """Begins to look for the most memory anew, where Linux can; returns what is in use now."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return peak_megabytes()
    return _status("VmRSS")


def peak_megabytes() -> float:
    """Returns the most memory since ``reset_peak``, or since the process began."""
    if sys.platform == "linux":
        return _status("VmHWM")
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s*(\d+) kB", (_PROC / "status").read_text())
    assert found is not None
    return int(found[1]) / 1024
