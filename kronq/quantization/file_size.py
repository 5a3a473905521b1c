"""Size of an adapter's packed file, before its error is known."""

from __future__ import annotations

from dataclasses import replace

from kronq.model.adapter import Adapter
from kronq.packed import SizeByWidths, packed_size
from kronq.quantization.config_checks import MAX_BPW
from kronq.trellis.stream import EncodedStream

_LONGEST_ERROR = 0.0000123456
"""Placeholder for the relative error: six digits in as many characters as JSON has for them."""

SMALL_FILE = 2400
"""Bytes of a file below which most of it may be header."""


def most_bytes(parameters: int) -> int:
    """Returns bytes that entropy-coded files of so many parameters never need."""
    return MAX_BPW * parameters // 8 + SMALL_FILE


def file_size(adapter: Adapter, stream: EncodedStream | None = None) -> int:
    """Returns the bytes of the packed file, with the longest relative error in its manifest.

    Args:
        adapter: A quantized adapter, or a float one, which has no error to tell.
        stream: Stream of its coded layers in the file's order, if at hand already.
    """
    return packed_size(_with_longest_error(adapter), stream)


def file_size_by_widths(adapter: Adapter) -> SizeByWidths:
    """Returns the bytes of the packed file as ``file_size`` does, for any widths of channels."""
    return SizeByWidths(_with_longest_error(adapter))


def _with_longest_error(adapter: Adapter) -> Adapter:
    recipe = adapter.recipe and replace(adapter.recipe, relative_error=_LONGEST_ERROR)
    return replace(adapter, recipe=recipe)
