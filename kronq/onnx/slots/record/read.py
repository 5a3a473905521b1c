"""Reads the record of an adapter: for checks, and for tests. The operator has its own reader."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, MismatchError, StrPath
from kronq.onnx.slots.record.layout import (
    BFLOAT16,
    ENTRY,
    FLOATS,
    HEAD,
    LINE,
    MAGIC,
    PART,
    VERSION,
    PartLayout,
    layer_id,
)
from kronq.onnx.slots.record.words import unpack_words

U8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One layer of a record; y += A · (x · B2 · diag(scale)) · B1.

    Attributes:
        layout: Its sizes and types.
        a: float32 [a_out, a_in].
        scale: float32 [rank].
        b1: B1ᵀ [rank, b_out], codes or floats.
        b2: B2ᵀ [b_in, rank], codes or floats.
    """

    layout: PartLayout
    a: NDArray[np.float32]
    scale: NDArray[np.float32]
    b1: NDArray[Any]
    b2: NDArray[Any]

    def dense(self) -> NDArray[np.float64]:
        """Multiplies ΔW out [d_out, d_in] in float64."""
        a, b1, b2 = (matrix.astype(np.float64) for matrix in (self.a, self.b1, self.b2))
        whole = np.kron(a, (b2 * self.scale.astype(np.float64) @ b1).T)
        return np.asarray(whole, dtype=np.float64)


def record_tag(record: U8) -> int:
    """Returns the tag of a record."""
    return int(record[: HEAD.itemsize].view(HEAD)[0]["tag"])


def read_layouts(record: U8, path: StrPath | None = None) -> dict[int, tuple[int, PartLayout]]:
    """Returns id → offset and layout of each layer's part.

    Args:
        record: uint8, one whole record.
        path: Where it came from, for errors.

    Raises:
        FormatError: It is no record, or a damaged one.
    """
    head = record[: HEAD.itemsize].view(HEAD)[0] if len(record) >= HEAD.itemsize else None
    if head is None or head["magic"] != MAGIC or head["version"] != VERSION:
        raise FormatError(
            "not the record of an adapter, or one of another version of kronq",
            path=path,
            code="version",
        )
    count, size = int(head["layers"]), int(head["size"])
    end = HEAD.itemsize + ENTRY.itemsize * count
    if size != len(record) or size % LINE or end > size:
        raise _damaged(path, f"{len(record):,} bytes", f"{size:,}")
    directory = record[HEAD.itemsize : end].view(ENTRY)
    if (np.diff(directory["layer"]) == 0).any() or (np.sort(directory) != directory).any():
        raise _damaged(path, "layers out of order", "ascending ids")
    found = {}
    for layer, offset in directory.tolist():
        if offset < end or offset % LINE or offset + PART.itemsize > size:
            raise _damaged(path, f"a layer at {offset:,}", f"within {size:,} bytes")
        layout = _read_layout(record[offset : offset + PART.itemsize].view(PART)[0].tolist(), path)
        if offset + layout.size > size:
            raise _damaged(path, f"a layer at {offset:,}", f"within {size:,} bytes")
        found[layer] = (offset, layout)
    return found


def _read_layout(part: tuple[Any, ...], path: StrPath | None) -> PartLayout:
    a_out, a_in, b_out, b_in, rank, b1, b2, _ = part
    types = {*range(2, 9), BFLOAT16, *FLOATS}
    if not (min(a_out, a_in, b_out, b_in, rank) and {b1, b2} <= types):
        raise _damaged(path, f"sizes {part[:5]}, types {b1} and {b2}", "those of a layer")
    return PartLayout((a_out, a_in), (b_out, b_in), rank, b1, b2)


def read_record(record: U8, path: StrPath | None = None) -> dict[int, LayerRecord]:
    """Returns id → layer of a record.

    Raises:
        FormatError: It is no record, or a damaged one.
    """
    return {
        layer: _read_layer(record[offset : offset + layout.size], layout)
        for layer, (offset, layout) in read_layouts(record, path).items()
    }


def check_record(
    record: U8, slots: Mapping[str, tuple[int, int]], path: StrPath | None = None
) -> None:
    """Refuses a record of other layers than a graph has slots for, or with bad numbers.

    Args:
        record: uint8, one whole record.
        slots: Layer → (d_out, d_in), ``SlotSpec.layers``.
        path: Where it came from, for errors.

    Raises:
        FormatError: It is no record, a damaged one, or has values that are not finite.
        MismatchError: It has a layer that the graph has not, or one of another shape.
    """
    known = {layer_id(name): (name, shape) for name, shape in slots.items()}
    for layer, (offset, layout) in read_layouts(record, path).items():
        found = [a * b for a, b in zip(layout.a, layout.b, strict=True)]
        if layer not in known:
            raise MismatchError(
                "the adapter has a layer that the model has no slot for",
                path=path,
                found=f"a layer {found}, id {layer:016x}",
                code="layers-not-in-base",
            )
        name, shape = known[layer]
        if found != list(shape):
            raise MismatchError(
                "the slot has another shape",
                layer=name,
                path=path,
                found=found,
                expected=list(shape),
                code="shape",
            )
        if not _is_finite(record[offset : offset + layout.size], layout):
            raise FormatError(
                "the adapter has values that are not finite",
                path=path,
                layer=name,
                hint="training diverged, or float16 overflowed",
                code="not-finite",
            )


def _numbers(part: U8, at: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    return part[at : at + 4 * math.prod(shape)].view(dtype).reshape(shape)


def _read_layer(part: U8, layout: PartLayout) -> LayerRecord:
    b1, b2 = _factors(part, layout, {*range(2, 9), BFLOAT16, *FLOATS})
    assert b1 is not None and b2 is not None  # noqa: PT018, S101
    a = _numbers(part, layout.a_at, layout.a, "<f4")
    scale = _numbers(part, PART.itemsize, (layout.rank,), "<f4")
    return LayerRecord(layout, a, scale, b1, b2)


def _factors(
    part: U8, layout: PartLayout, types: Container[int]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Returns B1ᵀ and B2ᵀ, those that are of the types."""
    b1 = b2 = None
    if layout.b1 in types:
        words = _numbers(part, layout.b1_at, layout.b1_words, "<u4")
        b1 = unpack_words(words, layout.b1, layout.rank, layout.b[0])
    if layout.b2 in types:
        words = _numbers(part, layout.b2_at, layout.b2_words, "<u4")
        b2 = unpack_words(words, layout.b2, layout.b[1], layout.rank)
    return b1, b2


def _is_finite(part: U8, layout: PartLayout) -> bool:
    front = _numbers(part, PART.itemsize, ((layout.b2_at - PART.itemsize) // 4,), "<f4")
    floats = _factors(part, layout, FLOATS)
    return all(bool(np.isfinite(x).all()) for x in (front, *floats) if x is not None)


def _damaged(path: StrPath | None, found: str, expected: str) -> FormatError:
    message = "a damaged record of an adapter"
    return FormatError(message, path=path, found=found, expected=expected, code="truncated")
