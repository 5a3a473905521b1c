"""Matrices whose channels have widths of their own: planes in the file, matrices when read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError
from kronq.io.safetensors_file import TensorFile
from kronq.model.bit_packing import (
    CODES_PER_BYTE,
    WIDTH_BITS,
    WIDTHS,
    packed_size,
    packed_sizes,
    unpack_channels,
    unpack_unsigned,
)
from kronq.packed.manifest import MatrixSpec
from kronq.packed.stacks import QuantizedStack, Stack

ANY = (-1,)
"""The shape of a tensor of one dimension whose length something else in the file tells."""
_KNOWN = np.isin(np.arange(2**WIDTH_BITS), WIDTHS)
"""Whether a number is a width."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Where each layer's part of a group's planes and scales is.

    Attributes:
        widths: uint8 [layers, channels].
        codes: [layers + 1]: bytes before each layer, and in all.
        scales: [layers + 1]: scales before each layer, and in all.
    """

    widths: NDArray[np.uint8]
    codes: list[int]
    scales: list[int]


def mixed_tensors(
    name: str, spec: MatrixSpec, layers: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of such a matrix: their names, dtypes and shapes."""
    yield name, ("U8", ANY)
    yield f"{name}.widths", ("U8", (layers, packed_size(spec.shape[spec.axis or 0], WIDTH_BITS)))
    if spec.scaled:
        yield f"{name}.scale", ("F16", ANY)


def planes_of(file: TensorFile, name: str, spec: MatrixSpec) -> Planes:
    """The layout of a group's matrices, checked: their memory is bounded by the file from here on.

    Raises:
        FormatError: A width is none, or there are not as many codes or scales as the widths say.
    """
    axis = spec.axis or 0
    widths = unpack_unsigned(file.array(f"{name}.widths"), WIDTH_BITS, spec.shape[axis])
    if not _KNOWN[widths].all():
        raise FormatError(
            f"{name!r} has a channel of no such width", path=file.path, expected=WIDTHS
        )
    codes = packed_sizes(spec.shape[1 - axis])[widths].sum(axis=1).tolist()
    scales = (widths != 0).sum(axis=1).tolist()
    least = -(-len(widths) * spec.shape[0] * spec.shape[1] // CODES_PER_BYTE)
    _expect(file, name, max(sum(codes), least))  # in numbers that do not overflow
    if spec.scaled:
        _expect(file, f"{name}.scale", sum(scales))
    return Planes(widths, *(list(accumulate(each, initial=0)) for each in (codes, scales)))


def _expect(file: TensorFile, tensor: str, size: int) -> None:
    found = file.entries[tensor].shape[0]
    if found != size:
        raise FormatError(
            f"tensor {tensor!r} is not what the widths of its channels say",
            path=file.path,
            found=found,
            expected=size,
        )


def mixed_stack(file: TensorFile, name: str, spec: MatrixSpec) -> QuantizedStack:
    """The matrix of every layer of a group."""
    planes = planes_of(file, name, spec)
    data, axis = file.array(name), spec.axis or 0
    layers, channels = planes.widths.shape

    def unpack(first: int, stop: int) -> NDArray[np.int8]:
        part = data[planes.codes[first] : planes.codes[stop]]
        found = unpack_channels(part, planes.widths[first:stop].reshape(-1), spec.shape[1 - axis])
        codes = found.reshape(stop - first, channels, -1)
        return codes if axis == 0 else codes.swapaxes(1, 2)

    scales = None
    if spec.scaled:
        scales = np.zeros(planes.widths.shape, dtype=np.float16)
        scales[planes.widths > 0] = scales_of(file, name)
    return QuantizedStack(Stack(layers, spec.shape, unpack), scales, axis, widths=planes.widths)


def scales_of(file: TensorFile, name: str) -> NDArray[Any]:
    """The scales of a group's matrices.

    Raises:
        FormatError: One is negative or not finite.
    """
    scale = file.array(f"{name}.scale")
    if not np.isfinite(scale).all() or (scale < 0).any():
        raise FormatError(f"{name!r} has scales that are negative or not finite", path=file.path)
    return scale
