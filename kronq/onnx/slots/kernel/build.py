"""Compiles the library of the operator, once, on this machine and by its own C compiler.

A library in a model folder is a program that runs with the user's rights, whoever put it there.
It is never opened: if it equals, byte for byte, the one that is compiled here from kronq's source,
that one is opened in its place. A digest beside a compiled library tells whether it is still whole.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kronq.errors import KronqError, StrPath, UnsupportedError
from kronq.io.cache import cache_folder, check_private, digest, new_entry

TRUST = "KRONQ_TRUST_KERNEL"
"""Environment variable; 1 opens the model folder's own library, wherever it was compiled."""

SOURCES = ("slots.c", "product.h", "ort.h")
NAMES = {"win32": "kronq.dll", "darwin": "libkronq.dylib"}
NAME = NAMES.get(sys.platform, "libkronq.so")
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno")


def build_library(cache: StrPath | None = None) -> Path:
    """Returns the library, ``$KRONQ_CACHE/kernels/HASH/libkronq.so``; compiles it if missing.

    Args:
        cache: Folder where libraries are kept; None for ``kronq.io.cache.cache_folder``.

    Raises:
        UnsupportedError: No C compiler is installed, or others can write the cache.
        KronqError: The compiler does not compile the source.
    """
    compiler = _find_compiler()
    here = Path(__file__).parent
    sources = [(here / name).read_bytes() for name in SOURCES]
    key = digest(f"{compiler} {FLAGS}", _compiler_version(compiler), *sources)
    library = cache_folder("kernels", cache) / key / NAME
    if _is_whole(library):
        return library
    with new_entry(library) as work:
        # The source is named relative to its folder, so that no path gets into the library.
        done = _run([*compiler, *FLAGS, SOURCES[0], "-o", str(work.absolute())], here)
        if done.returncode:
            raise KronqError(
                "the operator does not compile",
                found=done.stderr.strip().splitlines()[0] if done.stderr.strip() else None,
                hint="CC=gcc or CC=clang names another one; slots without {compiled} need none",
            )
        check_private(library.parent.parent, library.parent)
        content = work.read_bytes()
    with new_entry(_digest_file(library)) as work:
        work.write_text(digest(content))
    return library


def verified_library(file: Path) -> Path:
    """Returns the library to open for a model folder's one: the same bytes, compiled here.

    What is compared is what is opened, whatever happens to the folder meanwhile.

    Args:
        file: The library in the model folder.

    Returns:
        A library in the user's own cache; ``file`` itself if ``KRONQ_TRUST_KERNEL`` is 1.

    Raises:
        UnsupportedError: It is missing, or another one than is compiled here.
    """
    trusted = os.environ.get(TRUST) == "1"
    hint = f"an export with {{compiled}} makes it here; {TRUST}=1 runs it as it is"
    if not file.is_file():
        raise UnsupportedError("the model's compiled operator is missing", path=file, hint=hint)
    if trusted:
        return file
    own = _own_library()
    if own is None or not _same_bytes(file, own):
        raise UnsupportedError(
            "the model folder has a compiled library that was not made on this machine",
            path=file,
            hint=hint,
        )
    return own


def _same_bytes(file: Path, own: Path) -> bool:
    return file.stat().st_size == own.stat().st_size and file.read_bytes() == own.read_bytes()


def _own_library() -> Path | None:
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


def _is_whole(library: Path) -> bool:
    """Tells whether a compiled library is there as it was written.

    Raises:
        UnsupportedError: Others can write it, or the folders that it is in.
    """
    stored = _digest_file(library)
    if not (library.is_file() and stored.is_file()):
        return False
    check_private(library.parent.parent, library.parent, library, stored)
    return stored.read_bytes() == digest(library.read_bytes()).encode()


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".digest")


def _find_compiler() -> list[str]:
    asked = shlex.split(os.environ.get("CC", ""))
    for name in [asked[0]] if asked else ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path, *asked[1:]]
    raise UnsupportedError(
        "no C compiler",
        found=asked[0] if asked else None,
        expected="GCC or Clang",
        hint="apt install gcc, or set CC; slots without {compiled} need none",
    )


def _compiler_version(compiler: list[str]) -> str:
    return _run([*compiler, "--version"], Path(__file__).parent).stdout


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the user's own compiler
        command, cwd=folder, capture_output=True, text=True, check=False
    )
