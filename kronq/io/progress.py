"""Progress of long work, as it is reported to a caller."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (units done, units in all): layers, passes, batches, tokens or examples."""


def offset_progress(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Returns a progress of one part of the work that is reported as progress of all of it.

    Args:
        progress: The caller's, or None.
        before: Units done before this part.
        total: Units in all.
    """
    return None if progress is None else lambda done, _: progress(before + done, total)
