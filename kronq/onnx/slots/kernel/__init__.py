"""The compiled operator of slots: its C source, and the library that is compiled from it."""

from kronq.onnx.slots.kernel.build import TRUST, build_library, verified_library

__all__ = ["TRUST", "build_library", "verified_library"]
