"""Finds the libraries of the operator: those that kronq was installed with, or one compiled here.

A library in a model folder is a program that runs with the user's rights, whoever put it there.
It is never opened: if it equals kronq's own, byte for byte, that one is opened in its place.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kronq.compiled.find import compiled_library, own_library
from kronq.compiled.platforms import SHIPPED, library_name, this_platform
from kronq.compiled.shipped import shipped_library
from kronq.errors import ArgumentError, KronqError, UnsupportedError
from kronq.io.unfinished import temporary_folder
from kronq.onnx.slots.kernel.build import PROGRAM

TRUST = "KRONQ_TRUST_KERNEL"
"""Environment variable; 1 opens the model folder's own library, wherever it was compiled."""

ALL = "all"
"""In place of a platform: all whose library kronq was installed with."""


def find_libraries(platforms: Sequence[str] = ()) -> dict[str, Path]:
    """Returns the libraries that an export copies, by platform; this machine's own is the first.

    Args:
        platforms: Those that the model is for, or ``all``; none for this machine.

    Raises:
        ArgumentError: There is no such platform.
        UnsupportedError: kronq was installed without the library of one; on this machine, a C
            compiler does not make it either.
        KronqError: One that kronq was installed with is damaged.
    """
    here = this_platform()
    check_platforms(platforms)
    wanted = [here] if not platforms else [*SHIPPED] if ALL in platforms else [*platforms]
    wanted.sort(key=lambda platform: platform != here)
    return {platform: _library_for(platform, here) for platform in dict.fromkeys(wanted)}


def check_platforms(platforms: Sequence[str]) -> None:
    """Refuses a platform that kronq has no library for and that is not this machine's.

    Raises:
        ArgumentError: One is.
    """
    known = [*SHIPPED, *({this_platform()} - {*SHIPPED})]
    for platform in platforms:
        if platform not in (*known, ALL):
            expected = f"{', '.join(known)} or {ALL}"
            raise ArgumentError("no such platform", found=platform, expected=expected)


def _library_for(platform: str, here: str) -> Path:
    library = own_library(PROGRAM) if platform == here else shipped_library(PROGRAM, platform)
    if library is None:
        raise UnsupportedError(
            "kronq was installed without the operator for this platform",
            found=platform,
            hint="a wheel made by 'make wheel' has it",
        )
    return library


def opened_library(folder: Path, platforms: Sequence[str]) -> Path:
    """Returns the library to open for a model folder on this machine.

    A folder for other machines is opened with this machine's library, if it is known to be made of
    the same source: kronq was installed with both, and the folder's are the same bytes.

    Args:
        folder: The model folder.
        platforms: Those whose library is in it.

    Raises:
        UnsupportedError: There is none for this machine, or another one than kronq's own.
    """
    here = this_platform()
    if here not in platforms:
        own = shipped_library(PROGRAM, here)
        if own is not None and any(_is_shipped(folder, platform) for platform in platforms):
            return own
        raise UnsupportedError(
            "the model has no compiled operator for this machine",
            path=folder,
            found=", ".join(platforms),
            expected=here,
            hint=f"export it with {{platforms={here}}}, or for all machines {{compiled=False}}",
        )
    return verified_library(folder / library_name(PROGRAM.name, here))


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
    for find in (_shipped_library, _compiled_library):
        own = find()
        if own is not None and _same_bytes(file, own):
            return own
    raise UnsupportedError(
        "the model folder has a compiled library that was not made on this machine",
        path=file,
        hint=hint,
        code="library",
    )


def _is_shipped(folder: Path, platform: str) -> bool:
    """Tells whether a folder's library for a platform is the one that kronq was installed with."""
    file, own = folder / library_name(PROGRAM.name, platform), shipped_library(PROGRAM, platform)
    return own is not None and file.is_file() and _same_bytes(file, own)


def _same_bytes(file: Path, own: Path) -> bool:
    return file.stat().st_size == own.stat().st_size and file.read_bytes() == own.read_bytes()


def _shipped_library() -> Path | None:
    return shipped_library(PROGRAM, this_platform())


def _compiled_library() -> Path | None:
    """Returns the library that is compiled here; None where none can be."""
    for cache in (lambda: None, _scratch_cache):  # the usual cache may be read-only
        with contextlib.suppress(OSError, KronqError):
            return compiled_library(PROGRAM, cache())
    return None


@functools.cache
def _scratch_cache() -> str:
    """Returns a cache for this process alone, which is deleted when it ends."""
    return _scratch().name


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return temporary_folder()
