"""A checksum of a safetensors file's arrays and texts, for files that kronq keeps for itself."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHECKSUM = "crc32"
"""The checksum's name among the texts."""


def array_checksum(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> str:
    """Returns the CRC-32 of all names, values and texts but the checksum itself."""
    told = sorted((name, text) for name, text in texts.items() if name != CHECKSUM)
    value = zlib.crc32(json.dumps(told).encode())
    for name in sorted(arrays):
        value = zlib.crc32(
            np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), value)
        )
    return f"{value:08x}"
