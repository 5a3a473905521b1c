"""Coded layers as one stream; ``coded_stacks`` reads it back.

Every layer's factors are levels of one step, so that error counts alike everywhere. A factor's
channel (a column of B1 with its row of B2; a matrix without a partner as a whole) has a norm class,
which decides both its context class, by which its codes are coded, and its reconstruction scale.
formats/SPEC.md has the details.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from numpy.typing import NDArray

from kronq.errors import FormatError
from kronq.model.delta import ONE, Delta
from kronq.trellis import norm_classes as norms
from kronq.trellis.coded_matrix import EntropyCoded, KnownLevels, MatrixLevels
from kronq.trellis.layer_shape import I32, LayerShape, layer_shape
from kronq.trellis.norm_classes import NO_OFFSETS
from kronq.trellis.range_coder import encode_runs
from kronq.trellis.reconstruction import Shifts
from kronq.trellis.run_levels import LevelsOf, RunLevels
from kronq.trellis.stream_layout import MatrixKey, StreamLayout, lay_out_stream

LEVELS_PER_BYTE = 256
"""The most levels per byte of a stream: bounds the memory that a small file can ask for."""


@dataclass(frozen=True)
class StreamParameters:
    """Parameters that all levels of a stream share.

    Attributes:
        step: The step of the whole adapter's levels.
        shifts: Centroid shifts.
        has_offsets: Whether every layer has step offsets in the stream.
    """

    step: float
    shifts: Shifts
    has_offsets: bool = False


@dataclass(frozen=True)
class EncodedStream:
    """A stream's bytes, its parameters, and how many matrices are in it."""

    data: bytes
    parameters: StreamParameters
    matrices: int


def encode_layers(layers: Sequence[Delta]) -> EncodedStream | None:
    """Encodes the coded layers among ``layers`` as one stream; None if there are none.

    Raises:
        FormatError: They come from several files, or are only some of one's.
    """
    coded = [delta for delta in layers if isinstance(delta.b.left, EntropyCoded)]
    if not coded:
        return None
    known = _known_stream(coded)
    if known is not None:
        return known
    matrices = [decoded_levels(delta) for delta in coded]
    first = matrices[0][-1][0]
    for each in (matrix for products in matrices for product in products for matrix in product):
        if (each.step, each.shifts) != (first.step, first.shifts):
            raise FormatError("compact layers of different steps cannot share a file")
    layout, levels = lay_out_layers(coded)
    offsets = [products[-1][0].offsets for products in matrices]
    has_offsets = any(each != NO_OFFSETS for each in offsets)
    try:
        numbers = norms.norm_class_differences(layout.shapes, _norm_classes(matrices))
        if has_offsets:
            numbers.append(norms.step_offset_differences(offsets))
        data = encode_runs(numbers, layout.runs, levels)
    except FormatError:
        raise
    except ValueError:
        raise FormatError(
            "compact layers can be packed only all together, as they were quantized",
            hint="quantize the layers that you want",
        ) from None
    parameters = StreamParameters(first.step, first.shifts, has_offsets)
    count = sum(len(product) for products in matrices for product in products)
    return EncodedStream(pad_stream(data, layout.shapes), parameters, count)


def _known_stream(coded: Sequence[Delta]) -> EncodedStream | None:
    """Returns the stream that just these layers, in this order, were encoded in already."""
    matrices = [m for delta in coded for m in delta.matrices if isinstance(m, EntropyCoded)]
    known = [m.decode for m in matrices if isinstance(m.decode, KnownLevels)]
    stream = known[0].stream if known else None
    if not isinstance(stream, EncodedStream) or stream.matrices != len(matrices):
        return None
    own = [(id(each.stream), each.place) for each in known]
    return stream if own == [(id(stream), i) for i in range(len(matrices))] else None


def lay_out_layers(coded: Sequence[Delta]) -> tuple[StreamLayout, list[NDArray[Any]]]:
    """Returns the layout of coded layers in their stream, and the levels of every run [size]."""
    matrices = [decoded_levels(delta) for delta in coded]
    kept = _kept_levels(matrices)
    if kept is not None:
        return kept.layout, kept.runs
    offsets = [products[-1][0].offsets for products in matrices]
    shapes = [layer_shape(delta) for delta in coded]
    layout = lay_out_stream(shapes, _norm_classes(matrices), offsets)

    def levels_of(key: MatrixKey) -> I32:
        layer, product, side = key
        return matrices[layer][product][side].levels

    return layout, layout.gather(levels_of)


def _kept_levels(matrices: Sequence[Sequence[Sequence[MatrixLevels]]]) -> RunLevels | None:
    """Returns the levels of runs that these matrices are, in this order, if they are kept so."""
    first = matrices[0][0][0].read
    if not isinstance(first, LevelsOf) or len(first.kept.layout.shapes) != len(matrices):
        return None
    kept = first.kept
    for layer, products in enumerate(matrices):
        for p, product in enumerate(products):
            for side, matrix in enumerate(product):
                if matrix.read != kept.reader((layer, p, side)):
                    return None
    return kept


def _norm_classes(matrices: Sequence[Sequence[Sequence[MatrixLevels]]]) -> list[list[I32]]:
    return [[product[0].norm_classes for product in products] for products in matrices]


def pad_stream(data: bytes, shapes: Sequence[LayerShape]) -> bytes:
    """Appends zeros to a stream that would be refused as too short for its levels."""
    return data.ljust(-(-sum(s.size for s in shapes) // LEVELS_PER_BYTE // 4) * 4, b"\0")


def decoded_levels(delta: Delta) -> list[list[MatrixLevels]]:
    """Returns the levels of a coded layer's matrices, by product."""
    products = ([] if delta.a is ONE else [delta.a]) + [delta.b]
    return [[m.decode() for m in p.matrices if isinstance(m, EntropyCoded)] for p in products]


def stream_shares(sizes: Sequence[int], nbytes: int) -> list[int]:
    """Returns whole bytes of a stream for matrices of some sizes: they add up to ``nbytes``."""
    total = max(sum(sizes), 1)
    ends = [end * nbytes // total for end in accumulate(sizes)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
