"""Tensors that all layers of a PEFT adapter share: ``base_model.vera_A``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kronq.io.tensors import Tensors
from kronq.readers.peft_tuners.parts import ADAPTER_NAME


def shared_tensors(tensors: Tensors, names: Sequence[str]) -> dict[str, str]:
    """Returns a shared tensor's name in PEFT → its name in the file, of those that are there."""
    pattern = re.compile(rf"(module\.)*base_model\.(?P<name>{'|'.join(names)}){ADAPTER_NAME}")
    matches = {tensor: pattern.fullmatch(tensor) for tensor in tensors.entries}
    return {match["name"]: tensor for tensor, match in matches.items() if match}
