"""What a GGUF file says of its tensors, checked before the gguf package believes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from kronq.errors import FormatError
from kronq.io.gguf_types import check_types

_MOST_DIMENSIONS = 4
"""ggml's GGML_MAX_DIMS."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor, as the file's header has it.

    Attributes:
        name: Its name.
        dims: Its sizes, that of a row first.
        kind: Number of its type.
        offset: Its first byte in the data.
    """

    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int


def check_tensors(fields: Sequence[Any], size: int, alignment: int) -> None:
    """Refuses tensors that do not fit into the file's data, each at a place of its own.

    Args:
        fields: One field of the gguf package's for each tensor.
        size: Bytes of the data.
        alignment: Bytes that the beginning of each tensor is a multiple of.

    Raises:
        FormatError: The file is damaged.
        UnsupportedError: A tensor is of a type that the package cannot read.
    """
    tensors = [_read_info(field) for field in fields]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        names = sorted(tensor.name for tensor in tensors)
        twice = next(a for a, b in pairwise(names) if a == b)
        raise FormatError("a tensor that is there twice", found=twice, code="duplicate")
    check_types({tensor.name: tensor.kind for tensor in tensors})
    stop = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        nbytes = _check_dims(tensor)
        if tensor.offset + nbytes > size:
            raise FormatError(
                "the file is cut, or a tensor's place in it is wrong",
                layer=tensor.name,
                found=f"{size:,} bytes of data",
                expected=f"{tensor.offset + nbytes:,}",
                code="truncated",
            )
        if tensor.offset < stop or tensor.offset % alignment:
            raise FormatError(
                "a tensor that overlaps another, or begins between two places",
                layer=tensor.name,
                found=f"byte {tensor.offset:,}",
                expected=f"{stop:,} or later, a multiple of {alignment}",
                code="tensors",
            )
        stop = tensor.offset + nbytes


def _read_info(field: Any) -> TensorInfo:
    _, _, _, dims, kind, offset = field.parts
    sizes = tuple(int(size) for size in dims[: _MOST_DIMENSIONS + 1])
    return TensorInfo(field.name, sizes, int(kind[0]), int(offset[0]))


def _check_dims(tensor: TensorInfo) -> int:
    """Returns a tensor's bytes; refuses sizes that no tensor of its type has."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    dims = tensor.dims
    if not 0 < len(dims) <= _MOST_DIMENSIONS or min(dims) < 1 or dims[0] % block:
        raise FormatError(
            "a tensor of sizes that its type cannot have",
            layer=tensor.name,
            found=" × ".join(map(str, dims)) or "none",
            expected=f"1 to {_MOST_DIMENSIONS} sizes, a row of a multiple of {block}",
            code="tensors",
        )
    return prod(dims) // block * nbytes
