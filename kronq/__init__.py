"""kronq: quantize, measure, pack and run Kron-LoRA (LoKr) and LoRA adapters.

The whole public API is here; each name is imported when it is first used, so that
``import kronq`` and ``kronq --help`` stay quick and never bring in torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kronq.adapter import Adapter
    from kronq.delta import Delta
    from kronq.errors import KronqError
    from kronq.loading import load
    from kronq.packed import save

_HOME = {
    "Adapter": "kronq.adapter",
    "Delta": "kronq.delta",
    "KronqError": "kronq.errors",
    "load": "kronq.loading",
    "save": "kronq.packed",
}

__version__ = "0.1.0"
__all__ = ["Adapter", "Delta", "KronqError", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kronq' has no attribute {name!r}")
