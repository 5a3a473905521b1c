"""Compiles C by this machine's own compiler, once: libraries are kept in the user's cache.

A digest beside a compiled library tells whether it is still whole.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kronq.errors import UnsupportedError
from kronq.io.cache import check_private, digest, new_entry


@dataclass(frozen=True)
class Program:
    """C to be compiled to one library.

    Attributes:
        name: Of the library, without what a platform puts around it.
        folder: Where the sources are.
        sources: Names of the files that are compiled.
        headers: Names of those that they include.
        flags: Of the compiler.
        title: What it is, in error messages.
        hint: What works without it, in error messages.
    """

    name: str
    folder: Path
    sources: Sequence[str]
    headers: Sequence[str]
    flags: Sequence[str]
    title: str
    hint: str

    def contents(self) -> list[bytes]:
        return [(self.folder / name).read_bytes() for name in (*self.sources, *self.headers)]


def compile_library(program: Program, library: Path) -> None:
    """Compiles a library, and notes its digest.

    Raises:
        UnsupportedError: No C compiler is installed, it does not compile the source, or others can
            write the cache.
    """
    compiler = find_compiler(program)
    with new_entry(library) as work:
        # The source is named relative to its folder, so that no path gets into the library.
        command = [*compiler, *program.flags, *program.sources, "-o", str(work.absolute())]
        done = _run(command, program.folder)
        if done.returncode:
            raise UnsupportedError(
                f"{program.title} does not compile",
                found=done.stderr.strip().splitlines()[0] if done.stderr.strip() else None,
                hint=f"CC=gcc or CC=clang names another one; {program.hint}",
            )
        check_private(library.parent.parent, library.parent)
        content = work.read_bytes()
    with new_entry(_digest_file(library)) as work:
        work.write_text(digest(content))


def is_whole(library: Path) -> bool:
    """Tells whether a compiled library is there as it was written.

    Raises:
        UnsupportedError: Others can write it, or the folders that it is in.
    """
    stored = _digest_file(library)
    if not (library.is_file() and stored.is_file()):
        return False
    check_private(library.parent.parent, library.parent, library, stored)
    return stored.read_bytes() == digest(library.read_bytes()).encode()


def find_compiler(program: Program) -> list[str]:
    """Returns the command of the C compiler: ``$CC``, or the first that is installed.

    Raises:
        UnsupportedError: None is.
    """
    asked = shlex.split(os.environ.get("CC", ""))
    for name in [asked[0]] if asked else ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path, *asked[1:]]
    raise UnsupportedError(
        "no C compiler",
        found=asked[0] if asked else None,
        expected="GCC or Clang",
        hint=f"apt install gcc, or set CC; {program.hint}",
    )


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".digest")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the user's own compiler
        command, cwd=folder, capture_output=True, text=True, check=False
    )
