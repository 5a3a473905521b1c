"""Paths of inputs, found before anything is read."""

from __future__ import annotations

import re
from pathlib import Path

from kronq.errors import NotFoundError, StrPath
from kronq.io.hub import Kind, check_hub_path, fetch, is_hub_path

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find_input(path: StrPath, kind: Kind = "adapter") -> Path:
    """Returns the path of a file or folder that exists.

    Args:
        path: A path, or ``hf://owner/name[@revision][/file]``, which is downloaded.
        kind: What is wanted, where it is downloaded.

    Raises:
        NotFoundError: It does not exist, or cannot be had.
    """
    if is_hub_path(path):
        return fetch(str(path), kind)
    found = Path(path)
    if not found.exists():
        raise NotFoundError("no such file or folder", path=path, hint=_hub_hint(str(path)))
    return found


def check_input(path: StrPath) -> None:
    """Refuses a path that does not exist; nothing is downloaded.

    Raises:
        NotFoundError: It does not.
        ArgumentError: It begins with ``hf://`` and goes on wrong.
        MissingDependencyError: It is one on the Hub, and huggingface_hub is not installed.
    """
    if is_hub_path(path):
        check_hub_path(str(path))
    else:
        find_input(path)


def _hub_hint(path: str) -> str | None:
    """Returns how to get what looks like a repository's name: it is never downloaded unasked."""
    if not _REPOSITORY.fullmatch(path) or Path(path).parent.exists():
        return None
    return f"if it is on the Hugging Face Hub: hf://{path}, or 'hf download {path}'"
