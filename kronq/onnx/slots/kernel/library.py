"""Finds the library of the operator: the one that kronq was installed with, or one compiled here.

A library in a model folder is a program that runs with the user's rights, whoever put it there.
It is never opened: if it equals kronq's own, byte for byte, that one is opened in its place.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import tempfile
from pathlib import Path

from kronq.errors import KronqError, UnsupportedError
from kronq.onnx.slots.kernel.build import build_library
from kronq.onnx.slots.kernel.shipped import shipped_library

TRUST = "KRONQ_TRUST_KERNEL"
"""Environment variable; 1 opens the model folder's own library, wherever it was compiled."""

COMPILE = "KRONQ_COMPILE_KERNEL"
"""Environment variable; 1 compiles the library from source, though kronq was installed with one."""


def find_library() -> Path:
    """Returns the library that an export copies: the shipped one, or else one compiled here.

    Raises:
        UnsupportedError: None is shipped for this platform, and no C compiler is installed.
        KronqError: The shipped one is damaged, or the source does not compile.
    """
    shipped = None if os.environ.get(COMPILE) == "1" else shipped_library()
    return shipped or build_library()


def verified_library(file: Path) -> Path:
    """Returns the library to open for a model folder's one: the same bytes, kronq's own.

    What is compared is what is opened, whatever happens to the folder meanwhile.

    Args:
        file: The library in the model folder.

    Returns:
        The library that kronq was installed with, or one in the user's own cache; ``file`` itself
        if ``KRONQ_TRUST_KERNEL`` is 1.

    Raises:
        UnsupportedError: It is missing, or another one than is shipped or compiled here.
    """
    trusted = os.environ.get(TRUST) == "1"
    hint = f"an export with {{compiled}} makes it here; {TRUST}=1 runs it as it is"
    if not file.is_file():
        raise UnsupportedError("the model's compiled operator is missing", path=file, hint=hint)
    if trusted:
        return file
    for find in (shipped_library, _compiled_library):
        own = find()
        if own is not None and _same_bytes(file, own):
            return own
    raise UnsupportedError(
        "the model folder has a compiled library that was not made on this machine",
        path=file,
        hint=hint,
    )


def _same_bytes(file: Path, own: Path) -> bool:
    return file.stat().st_size == own.stat().st_size and file.read_bytes() == own.read_bytes()


def _compiled_library() -> Path | None:
    """Returns the library that is compiled here; None where none can be."""
    for cache in (lambda: None, _scratch_cache):  # the usual cache may be read-only
        with contextlib.suppress(OSError, KronqError):
            return build_library(cache())
    return None


@functools.cache
def _scratch_cache() -> str:
    """Returns a cache for this process alone, which is deleted when it ends."""
    scratch = tempfile.TemporaryDirectory(prefix="kronq-", ignore_cleanup_errors=True)
    atexit.register(scratch.cleanup)
    return scratch.name
