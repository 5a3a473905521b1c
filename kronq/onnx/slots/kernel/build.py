"""Compiles the library of the operator, once, on this machine and by its own C compiler.

A library in a model folder is a program that runs with the user's rights, whoever put it there.
It is never opened: if it equals, byte for byte, the one that is compiled here from kronq's source,
that one is opened in its place.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import tempfile
from pathlib import Path

from kronq.compiled.compiler import (
    Program,
    compile_library,
    compiler_version,
    find_compiler,
    is_whole,
)
from kronq.errors import KronqError, StrPath, UnsupportedError
from kronq.io.cache import cache_folder, digest

TRUST = "KRONQ_TRUST_KERNEL"
"""Environment variable; 1 opens the model folder's own library, wherever it was compiled."""

NAMES = {"win32": "kronq.dll", "darwin": "libkronq.dylib"}
NAME = NAMES.get(sys.platform, "libkronq.so")
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno")
PROGRAM = Program(
    folder=Path(__file__).parent,
    sources=("slots.c",),
    headers=("product.h", "ort.h"),
    flags=FLAGS,
    title="the operator",
    hint="slots without {compiled} need none",
)


def build_library(cache: StrPath | None = None) -> Path:
    """Returns the library, ``$KRONQ_CACHE/kernels/HASH/libkronq.so``; compiles it if missing.

    Args:
        cache: Folder where libraries are kept; None for ``kronq.io.cache.cache_folder``.

    Raises:
        UnsupportedError: No C compiler is installed, or others can write the cache.
        KronqError: The compiler does not compile the source.
    """
    compiler = find_compiler(PROGRAM)
    version = compiler_version(compiler, PROGRAM.folder)
    key = digest(f"{compiler} {FLAGS}", version, *PROGRAM.contents())
    library = cache_folder("kernels", cache) / key / NAME
    if not is_whole(library):
        compile_library(PROGRAM, library)
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
