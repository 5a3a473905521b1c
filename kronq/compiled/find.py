"""Finds the library of a program on this machine: carried by the wheel, or compiled here."""

from __future__ import annotations

import os
from pathlib import Path

from kronq.compiled.compiler import Program, compile_library, is_whole
from kronq.compiled.platforms import library_name, this_platform
from kronq.compiled.shipped import shipped_library
from kronq.errors import StrPath
from kronq.io.cache import cache_folder, digest

COMPILE = "KRONQ_COMPILE"
"""Environment variable; 1 compiles from source, though kronq was installed with libraries."""


def own_library(program: Program) -> Path:
    """Returns the program's library for this machine: the wheel's, or else one compiled here.

    Raises:
        UnsupportedError: The wheel carries none for this platform, and no C compiler makes one.
        KronqError: The wheel's is damaged.
    """
    shipped = None
    if os.environ.get(COMPILE) != "1":
        shipped = shipped_library(program, this_platform())
    return shipped or compiled_library(program)


def compiled_library(program: Program, cache: StrPath | None = None) -> Path:
    """Returns the library that this machine's C compiler makes; compiles it if it is missing.

    Args:
        program: The program.
        cache: Folder where libraries are kept, as ``kernels/HASH/NAME``; None for the user's.

    Raises:
        UnsupportedError: No C compiler is installed, it does not compile the source, or others can
            write the cache.
    """
    # A newer compiler is no reason to compile anew: folders have the library of the old one.
    here = this_platform()
    settings = f"{here} {os.environ.get('CC')} {program.flags}"
    key = digest(settings, *program.contents())
    library = cache_folder("kernels", cache) / key / library_name(program.name, here)
    if not is_whole(library):
        compile_library(program, library)
    return library
