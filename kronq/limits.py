"""Limits on what a file may ask for, checked before anything of that size is made.

Each can be raised by an environment variable of its name: ``KRONQ_MAX_HEADER=100000000``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kronq.errors import ArgumentError, FormatError, StrPath


@dataclass(frozen=True)
class Limit:
    """Largest number of something that a file may have.

    Attributes:
        variable: Environment variable that replaces the number.
        default: The number.
        unit: What is counted.
    """

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The number that holds now."""
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdigit() and 0 < len(text) <= 18):
            raise ArgumentError(
                f"{self.variable} is no number", found=repr(text[:40]), expected="digits"
            )
        return int(text)

    def check(self, found: int, path: StrPath | None, layer: str | None = None) -> None:
        """Refuses a file that asks for more.

        Raises:
            FormatError: It does.
        """
        if found > self.value:
            raise FormatError(
                f"too many {self.unit}",
                path=path,
                layer=layer,
                found=f"{found:,}",
                expected=f"at most {self.value:,}",
                hint=f"{self.variable}={found} allows so many, if you trust the file",
                code="limit",
            )


HEADER = Limit("KRONQ_MAX_HEADER", 16 * 2**20, "bytes in the header")
TENSORS = Limit("KRONQ_MAX_TENSORS", 200_000, "tensors")
MANIFEST = Limit("KRONQ_MAX_MANIFEST", 8 * 2**20, "bytes in the manifest")
FIELDS = Limit("KRONQ_MAX_FIELDS", 1000, "fields in one object")
LAYERS = Limit("KRONQ_MAX_LAYERS", 100_000, "layers")
MODULES = Limit("KRONQ_MAX_MODULES", 100_000, "modules in the model")
EXPRESSION = Limit("KRONQ_MAX_EXPRESSION", 1000, "characters in an expression")
WAYS = Limit("KRONQ_MAX_WAYS", 100_000_000, "ways to match expressions")
CODED_LAYERS = Limit("KRONQ_MAX_CODED_LAYERS_PER_BYTE", 16, "layers for each byte of their codes")
RANK = Limit("KRONQ_MAX_RANK", 4096, "rank components")
KERNEL = Limit("KRONQ_MAX_KERNEL", 1024, "positions in a kernel")
EXPANDED = Limit("KRONQ_MAX_EXPANDED", 2**28, "values when expanded to plain factors")
SIDECAR = Limit("KRONQ_MAX_SIDECAR", 64 * 2**20, "bytes in a file beside the model")
JSON = Limit("KRONQ_MAX_JSON", 64 * 2**20, "bytes of JSON")
SLOTS = Limit("KRONQ_MAX_SLOTS_FILE", 32 * 2**20, "bytes in the description of the slots")
SETTINGS = Limit("KRONQ_MAX_GGUF_SETTINGS", 10_000, "settings in a GGUF file")
TEXTS = Limit("KRONQ_MAX_GGUF_TEXTS", 4_000_000, "texts in a list of a GGUF file")
DIMENSIONS = Limit("KRONQ_MAX_DIMENSIONS", 64, "dimensions before the last one")
STUDY = Limit("KRONQ_MAX_STUDY", 2**18, "bytes that describe a study")
TABLE = Limit("KRONQ_MAX_TABLE", 2**30, "bytes in a study's table")
CHAINS = Limit("KRONQ_MAX_CHAINS", 10_000, "adapters in a study")
POOL = Limit("KRONQ_MAX_POOL", 1_000_000, "adapters in a pool")
REQUEST = Limit("KRONQ_MAX_REQUEST", 16 * 2**20, "bytes in a request to the server")
