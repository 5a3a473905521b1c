"""Safetensors files whose bytes depend on nothing but their contents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

_ALIGNMENT = 8


def serialize_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Returns a file's bytes; the library writes several entries of metadata in any order."""
    # The library writes an array's memory, whatever its strides say.
    plain = save({name: np.asarray(array, order="C") for name, array in tensors.items()})
    length = int.from_bytes(plain[:8], "little")
    entries = json.loads(plain[8 : 8 + length])
    header = json.dumps(
        {"__metadata__": dict(sorted(metadata.items())), **entries}, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header + plain[8 + length :]
