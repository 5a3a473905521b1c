"""The library of the compiled operator: made on this machine, by its own C compiler, once.

A library in a model folder is a program that runs with the user's rights, whoever put it there, so
one is opened only if it is, to the byte, what is made here of kronq's own source.
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
"""Set to 1, libraries that were made elsewhere are opened, too."""

SOURCES = ("slots.c", "product.h", "ort.h")
NAMES = {"win32": "kronq.dll", "darwin": "libkronq.dylib"}
NAME = NAMES.get(sys.platform, "libkronq.so")
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno")


def build(cache: StrPath | None = None) -> Path:
    """The library, ``$KRONQ_CACHE/kernels/HASH/libkronq.so``; compiled if it is not there.

    Args:
        cache: Where libraries are kept; None for ``kronq.io.cache.cache_folder``.

    Raises:
        UnsupportedError: No C compiler here.
        KronqError: It does not compile the source.
    """
    compiler = _compiler()
    here = Path(__file__).parent
    sources = [(here / name).read_bytes() for name in SOURCES]
    key = digest(f"{compiler} {FLAGS}", _version(compiler), *sources)
    library = cache_folder("kernels", cache) / key / NAME
    if library.is_file():
        return library
    with new_entry(library) as work:
        # By a relative name, so that no folder's name gets into the library.
        made = _run([*compiler, *FLAGS, SOURCES[0], "-o", str(work.absolute())], here)
        if made.returncode:
            raise KronqError(
                "the operator does not compile",
                found=made.stderr.strip().splitlines()[0] if made.stderr.strip() else None,
                hint="CC=gcc or CC=clang names another compiler; slots without {kernel} need none",
            )
    return library


def check_library(file: Path) -> None:
    """Refuses a library that is not what kronq makes here.

    Raises:
        UnsupportedError: It is another one, and ``KRONQ_TRUST_KERNEL`` is not 1.
    """
    if os.environ.get(TRUST) == "1":
        return
    hint = f"an export with {{kernel}} makes it here; {TRUST}=1 runs it as it is"
    if not file.is_file():
        raise UnsupportedError("the model's compiled operator is missing", path=file, hint=hint)
    if file.read_bytes() != _ours():
        raise UnsupportedError(
            "the model folder has a compiled library that was not made on this machine",
            path=file,
            hint=hint,
        )


def _ours() -> bytes:
    """The library that is made here; nothing where none can be."""
    with tempfile.TemporaryDirectory() as scratch:
        for cache in (None, scratch):  # the first may be one that cannot be written
            with contextlib.suppress(OSError, KronqError):
                return build(cache).read_bytes()
    return b""


def _compiler() -> list[str]:
    asked = shlex.split(os.environ.get("CC", ""))
    for name in [asked[0]] if asked else ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path, *asked[1:]]
    raise UnsupportedError(
        "no C compiler",
        found=asked[0] if asked else None,
        expected="GCC or Clang",
        hint="apt install gcc, or set CC; slots without {kernel} need none",
    )


def _version(compiler: list[str]) -> str:
    return _run([*compiler, "--version"], Path(__file__).parent).stdout


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the user's own compiler
        command, cwd=folder, capture_output=True, text=True, check=False
    )
