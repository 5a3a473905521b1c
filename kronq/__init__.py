"""kronq: quantize, measure, pack and run Kron-LoRA (LoKr) and LoRA adapters.

The whole public API is here; each name is imported when it is first used, so that
``import kronq`` and ``kronq --help`` stay quick and never bring in torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kronq.adapter import Adapter
    from kronq.calibration.collect import calibrate
    from kronq.delta import Delta
    from kronq.errors import KronqError
    from kronq.loading import load
    from kronq.metrics import measure, stamp
    from kronq.metrics.compare import compare
    from kronq.packed import save
    from kronq.quantization import quantize
    from kronq.runtime.session import Session
    from kronq.targets.onnx import export_onnx
    from kronq.targets.peft import convert

_HOME = {
    "Adapter": "kronq.adapter",
    "Delta": "kronq.delta",
    "KronqError": "kronq.errors",
    "Session": "kronq.runtime.session",
    "calibrate": "kronq.calibration.collect",
    "compare": "kronq.metrics.compare",
    "convert": "kronq.targets.peft",
    "export_onnx": "kronq.targets.onnx",
    "load": "kronq.loading",
    "measure": "kronq.metrics",
    "quantize": "kronq.quantization",
    "save": "kronq.packed",
    "stamp": "kronq.metrics",
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
