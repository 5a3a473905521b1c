"""Loads kronq's own loops in C, and compiles them at first use where there is a compiler."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from pathlib import Path

from kronq.compiled.compiler import Program, compile_library, is_whole
from kronq.errors import KronqError
from kronq.io.cache import cache_folder, digest

SWITCH = "KRONQ_COMPILED"
"""Environment variable; 0 runs everything in Python."""

# Without fused or reordered floating point, C gives the bits that NumPy gives.
PROGRAM = Program(
    folder=Path(__file__).parent,
    sources=("range_decoder.c",),
    headers=("library.h",),
    flags=("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    title="kronq's library",
    hint=f"{SWITCH}=0 needs none",
)
_NAMES = {"win32": "kronq_loops.dll", "darwin": "libkronq_loops.dylib"}
_NAME = _NAMES.get(sys.platform, "libkronq_loops.so")


def library() -> ctypes.CDLL | None:
    """Returns the library; None where it is switched off or cannot be made, which is no error."""
    if os.environ.get(SWITCH) == "0" or sys.byteorder != "little":
        return None
    return _library()


@functools.cache
def _library() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, ValueError, KronqError):  # of CC, too
        # Its results are the same whichever compiler made it: none needs to be asked its version.
        key = digest(
            f"{platform.machine()} {os.environ.get('CC')} {PROGRAM.flags}", *PROGRAM.contents()
        )
        file = cache_folder("kernels") / key / _NAME
        if not is_whole(file):
            compile_library(PROGRAM, file)
        return ctypes.CDLL(str(file))
    return None
