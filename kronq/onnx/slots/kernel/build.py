"""Compiles the library of the operator, once, on this machine and by its own C compiler."""

from __future__ import annotations

import sys
from pathlib import Path

from kronq.compiled.compiler import (
    Program,
    compile_library,
    compiler_version,
    find_compiler,
    is_whole,
)
from kronq.errors import StrPath
from kronq.io.cache import cache_folder, digest

NAMES = {"win32": "kronq.dll", "darwin": "libkronq.dylib"}
NAME = NAMES.get(sys.platform, "libkronq.so")
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno")
PROGRAM = Program(
    folder=Path(__file__).parent,
    sources=("slots.c",),
    headers=("processors.h", "product.h", "ort.h"),
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
