"""Loads kronq's own loops in C: the wheel's library, or one that is compiled at first use."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kronq.compiled.compiler import Program
from kronq.compiled.find import own_library
from kronq.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SWITCH = "KRONQ_COMPILED"
"""Environment variable; 0 runs everything in Python."""

# Without fused or reordered floating point, C gives the bits that NumPy gives.
PROGRAM = Program(
    name="kronq_loops",
    folder=Path(__file__).parent,
    sources=(
        "range_decoder.c",
        "range_encoder.c",
        "viterbi.c",
        "scales.c",
        "factor_pairs.c",
        "sweeps.c",
        "codes.c",
        "allocation.c",
    ),
    headers=(
        "library.h",
        "contexts.h",
        "processors.h",
        "scales_loops.h",
        "factor_pairs.h",
        "factor_pairs_loops.h",
        "descent_loops.h",
        "inner_products_loops.h",
        "least_squares.h",
    ),
    flags=("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    title="kronq's library",
    hint=f"{SWITCH}=0 needs none",
)

OK, DAMAGED, NO_MEMORY, OUT_OF_RANGE, TOO_SHORT = range(5)
"""What a function returns, as in library.h."""


def library() -> ctypes.CDLL | None:
    """Returns the library; None where it is switched off or cannot be made, which is no error."""
    if os.environ.get(SWITCH) == "0" or sys.byteorder != "little":
        return None
    return _library()


def call(functions: ctypes.CDLL, name: str, *arguments: int | NDArray[Any]) -> int:
    """Calls a function of the library, which lets other threads run.

    Args:
        functions: The library.
        name: Of the function.
        arguments: Whole numbers of 64 bits, and contiguous arrays of the types that it takes.

    Raises:
        MemoryError: There is too little.
    """
    function = getattr(functions, name)  # which, other than functions[name], is made once
    status = int(function(*map(_as_c, arguments)))
    if status == NO_MEMORY:
        raise MemoryError
    return status


def _as_c(value: int | NDArray[Any]) -> ctypes.c_int64 | ctypes.c_void_p:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if not value.flags.c_contiguous:
        raise ValueError("C takes contiguous arrays")
    address: int = value.__array_interface__["data"][0]  # sooner than value.ctypes.data
    return ctypes.c_void_p(address)


@functools.cache
def _library() -> ctypes.CDLL | None:
    # No place for a cache, no home, a CC that is no command, no compiler: Python does it.
    with contextlib.suppress(OSError, RuntimeError, ValueError, UnsupportedError):
        return ctypes.CDLL(str(own_library(PROGRAM)))
    return None
