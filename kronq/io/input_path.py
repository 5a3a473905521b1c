"""Paths of inputs, found before anything is read."""

from __future__ import annotations

from pathlib import Path

from kronq.errors import NotFoundError, StrPath


def find_input(path: StrPath) -> Path:
    """Returns the path of a file or folder that exists.

    Raises:
        NotFoundError: It does not.
    """
    found = Path(path)
    if not found.exists():
        raise NotFoundError("no such file or folder", path=path)
    return found
