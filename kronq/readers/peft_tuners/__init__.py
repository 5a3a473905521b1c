"""PEFT's tuners, one module each, with ``read(tensors, config, options) -> layer → ΔW``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners import lokr, lora

Read = Callable[[Tensors, PeftConfig, Options], dict[str, Delta]]

TUNERS: Mapping[str, Read] = {"LOKR": lokr.read, "LORA": lora.read}
"""``peft_type`` → reader of its layers."""
