"""The compiled operator of slots: its C source, and the libraries that are compiled from it."""

from kronq.onnx.slots.kernel.build import PROGRAM
from kronq.onnx.slots.kernel.library import (
    ALL,
    TRUST,
    check_platforms,
    find_libraries,
    opened_library,
    verified_library,
)

__all__ = [
    "ALL",
    "PROGRAM",
    "TRUST",
    "check_platforms",
    "find_libraries",
    "opened_library",
    "verified_library",
]
