"""kronq: quantize, measure, pack and run Kron-LoRA (LoKr) and LoRA adapters.

The whole public API is here; each name is imported when it is first used, so that
``import kronq`` and ``kronq --help`` stay quick and never bring in torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kronq.calibration.collect import calibrate
    from kronq.errors import KronqError
    from kronq.genai.session import Session
    from kronq.model.adapter import Adapter
    from kronq.model.delta import Delta
    from kronq.onnx import export_onnx
    from kronq.packed import save
    from kronq.quantization import quantize
    from kronq.readers.load import load
    from kronq.report import measure, stamp
    from kronq.report.comparison import compare
    from kronq.writers.peft import convert

_HOME = {
    "Adapter": "kronq.model.adapter",
    "Delta": "kronq.model.delta",
    "KronqError": "kronq.errors",
    "Session": "kronq.genai.session",
    "calibrate": "kronq.calibration.collect",
    "compare": "kronq.report.comparison",
    "convert": "kronq.writers.peft",
    "export_onnx": "kronq.onnx",
    "load": "kronq.readers.load",
    "measure": "kronq.report",
    "quantize": "kronq.quantization",
    "save": "kronq.packed",
    "stamp": "kronq.report",
}

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "Delta",
    "KronqError",
    "Session",
    "calibrate",
    "compare",
    "convert",
    "export_onnx",
    "load",
    "measure",
    "quantize",
    "save",
    "stamp",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kronq' has no attribute {name!r}")
