"""Compiles the library of the operator, once, on this machine and by its own C compiler.

A library in a model folder is a program that runs with the user's rights, whoever put it there, so
one is opened only if it equals, byte for byte, the one that is compiled here from kronq's source.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kronq.errors import KronqError, StrPath, UnsupportedError
from kronq.io.cache import cache_folder, digest, new_entry

TRUST = "KRONQ_TRUST_KERNEL"
"""Environment variable; 1 also opens libraries that were compiled elsewhere."""

SOURCES = ("slots.c", "product.h", "ort.h")
NAMES = {"win32": "kronq.dll", "darwin": "libkronq.dylib"}
NAME = NAMES.get(sys.platform, "libkronq.so")
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno")


def build_library(cache: StrPath | None = None) -> Path:
    """Returns the library, ``$KRONQ_CACHE/kernels/HASH/libkronq.so``; compiles it if missing.

    Args:
        cache: Folder where libraries are kept; None for ``kronq.io.cache.cache_folder``.

    Raises:
        UnsupportedError: No C compiler is installed.
        KronqError: The compiler does not compile the source.
    """
    compiler = _find_compiler()
    here = Path(__file__).parent
    sources = [(here / name).read_bytes() for name in SOURCES]
    key = digest(f"{compiler} {FLAGS}", _compiler_version(compiler), *sources)
    library = cache_folder("kernels", cache) / key / NAME
    if library.is_file():
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
    return library


def check_library(file: Path) -> None:
    """Refuses a library that differs from the one that is compiled here.

    Raises:
        UnsupportedError: It is missing or another one, and ``KRONQ_TRUST_KERNEL`` is not 1.
    """
    if os.environ.get(TRUST) == "1":
        return
    hint = f"an export with {{compiled}} makes it here; {TRUST}=1 runs it as it is"
    if not file.is_file():
        raise UnsupportedError("the model's compiled operator is missing", path=file, hint=hint)
    if file.read_bytes() != _own_library():
        raise UnsupportedError(
            "the model folder has a compiled library that was not made on this machine",
            path=file,
            hint=hint,
        )


def _own_library() -> bytes:
    """Returns the library that is compiled here; nothing where none can be."""
    with tempfile.TemporaryDirectory() as scratch:
        for cache in (None, scratch):  # the usual cache may be read-only
            with contextlib.suppress(OSError, KronqError):
                return build_library(cache).read_bytes()
    return b""


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
