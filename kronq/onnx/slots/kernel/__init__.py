"""The compiled operator of slots: its C source, and the library that is compiled from it."""

from kronq.onnx.slots.kernel.build import build_library
from kronq.onnx.slots.kernel.library import COMPILE, TRUST, find_library, verified_library

__all__ = ["COMPILE", "TRUST", "build_library", "find_library", "verified_library"]
