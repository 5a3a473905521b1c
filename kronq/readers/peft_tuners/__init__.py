"""PEFT's tuners, one module each, with ``read(tensors, config, options) -> layer → ΔW``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kronq.errors import UnsupportedError
from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners import (
    adalora,
    delora,
    gralora,
    hra,
    lora,
    lycoris_parts,
    miss,
    tinylora,
    vblora,
    vera,
)
from kronq.readers.peft_tuners.refused import REFUSED

Read = Callable[[Tensors, PeftConfig, Options], dict[str, Delta]]

TUNERS: Mapping[str, Read] = {
    "ADALORA": adalora.read,
    "DELORA": delora.read,
    "GRALORA": gralora.read,
    "HRA": hra.read,
    "LOHA": lycoris_parts.read_loha,
    "LOKR": lycoris_parts.read_lokr,
    "LORA": lora.read,
    "LORAGA": lora.read,  # of LoRA-GA's own fork of PEFT
    "MISS": miss.read,
    "PVERA": vera.read_pvera,
    "TINYLORA": tinylora.read,
    "VBLORA": vblora.read,
    "VERA": vera.read,
}
"""``peft_type`` → reader of its layers."""


def reader_of(config: PeftConfig) -> Read:
    """Returns the reader of a tuner's layers.

    Raises:
        UnsupportedError: kronq does not read the tuner.
    """
    if config.kind in TUNERS:
        return TUNERS[config.kind]
    if config.kind in REFUSED:
        what, hint = REFUSED[config.kind]
        message = f"an adapter of {config.kind}: {what}, which kronq does not read"
        raise UnsupportedError(message, path=config.path, hint=hint)
    raise UnsupportedError(
        "the peft_type is not supported",
        path=config.path,
        found=config.kind,
        expected=f"one of {', '.join(TUNERS)}",
    )
