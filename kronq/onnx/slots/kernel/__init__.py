"""The compiled operator of ``--kernel``: its C source, and the library made of it."""

from kronq.onnx.slots.kernel.build import TRUST, build, check_library

__all__ = ["TRUST", "build", "check_library"]
