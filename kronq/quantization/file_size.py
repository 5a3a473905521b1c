"""Size of an adapter's packed file, before its error is known."""

from __future__ import annotations

from dataclasses import replace

from kronq.model.adapter import Adapter
from kronq.packed import pack_adapter

_LONGEST_ERROR = 0.00012345678901234567
"""Placeholder for the relative error in the manifest, with as many digits as it can have."""


def file_size(adapter: Adapter) -> int:
    """Returns the bytes of the packed file, with a relative error of most digits in its manifest.

    Args:
        adapter: A quantized adapter, or a float one, which has no error to tell.
    """
    recipe = adapter.recipe and replace(adapter.recipe, relative_error=_LONGEST_ERROR)
    return len(pack_adapter(replace(adapter, recipe=recipe)))
