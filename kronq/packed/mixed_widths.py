"""Matrices whose channels have widths of their own, in the file and as stacks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import OK, call, library
from kronq.errors import FormatError
from kronq.io.safetensors_file import TensorFile
from kronq.model.bit_packing import (
    CODES_PER_BYTE,
    WIDTH_BITS,
    WIDTHS,
    channels_size,
    pack_channels,
    packed_sizes,
    unpack_channels,
    unpack_unsigned,
)
from kronq.model.mapped_pages import release_pages
from kronq.packed.code_stacks import CodeStack, QuantizedStack
from kronq.packed.manifest import MatrixSpec

_IS_WIDTH = np.isin(np.arange(2**WIDTH_BITS), WIDTHS)
"""Whether a number of 4 bits is a width."""


@dataclass(frozen=True, eq=False)
class MixedLayout:
    """Offsets of each layer's codes and scales in the tensors of a group.

    Attributes:
        widths: uint8 [layers, channels].
        codes: [layers + 1]: bytes before each layer, and in all.
        scales: [layers + 1]: scales before each layer, and in all.
    """

    widths: NDArray[np.uint8]
    codes: list[int]
    scales: list[int]


def read_mixed_layout(file: TensorFile, name: str, spec: MatrixSpec) -> MixedLayout:
    """Reads and checks widths: memory is bounded by the file from here on.

    Args:
        file: Open packed file.
        name: Tensor of the codes.
        spec: Of the matrix.

    Raises:
        FormatError: A number is not a width, or the codes or scales do not have the size that
            follows from the widths.
    """
    axis = spec.axis or 0
    widths = unpack_unsigned(file.array(f"{name}.widths"), WIDTH_BITS, spec.shape[axis])
    if not _IS_WIDTH[widths].all():
        raise FormatError(
            f"{name!r} has a channel of no such width",
            path=file.path,
            expected=WIDTHS,
            code="tensors",
        )
    codes = packed_sizes(spec.shape[1 - axis])[widths].sum(axis=1).tolist()
    scales = (widths != 0).sum(axis=1).tolist()
    least = -(-len(widths) * spec.shape[0] * spec.shape[1] // CODES_PER_BYTE)
    _check_size(file, name, max(sum(codes), least))  # in numbers that do not overflow
    if spec.scaled:
        _check_size(file, f"{name}.scale", sum(scales))
    return MixedLayout(widths, *(list(accumulate(each, initial=0)) for each in (codes, scales)))


def _check_size(file: TensorFile, tensor: str, size: int) -> None:
    length = file.entries[tensor].shape[0]
    if length != size:
        raise FormatError(
            f"tensor {tensor!r} is not what the widths of its channels say",
            path=file.path,
            found=length,
            expected=size,
            code="tensors",
        )


def read_mixed_stack(file: TensorFile, name: str, spec: MatrixSpec) -> QuantizedStack:
    """Reads the matrix of every layer of a group."""
    layout = read_mixed_layout(file, name, spec)
    data, axis = file.array(name), spec.axis or 0
    layers, channels = layout.widths.shape

    def unpack(first: int, stop: int) -> NDArray[np.int8]:
        part = data[layout.codes[first] : layout.codes[stop]]
        widths = layout.widths[first:stop].reshape(-1)
        by_channel = unpack_mixed(part, widths, spec.shape[1 - axis])
        release_pages(part)
        codes = by_channel.reshape(stop - first, channels, -1)
        return codes if axis == 0 else codes.swapaxes(1, 2)

    scales = None
    if spec.scaled:
        scales = np.zeros(layout.widths.shape, dtype=np.float16)
        scales[layout.widths > 0] = read_scales(file, name)
    return QuantizedStack(CodeStack(layers, spec.shape, unpack), scales, axis, widths=layout.widths)


def unpack_mixed(
    data: NDArray[np.uint8], widths: NDArray[np.uint8], length: int
) -> NDArray[np.int8]:
    """Unpacks channels as ``unpack_channels``, its reference; in C where there is the library.

    Raises:
        ValueError: The data is shorter than the widths say.
    """
    functions = library()
    if functions is None:
        return unpack_channels(data, widths, length)
    data, widths = np.ascontiguousarray(data), np.ascontiguousarray(widths)
    codes = np.empty((len(widths), length), dtype=np.int8)
    sizes = (len(data), len(widths), widths, length)
    if call(functions, "kronq_unpack_channels", data, *sizes, codes) != OK:
        raise ValueError("the codes of some channels are not there")
    return codes


def pack_mixed(codes: NDArray[np.int8], widths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Packs channels as ``pack_channels``, its reference; in C where there is the library."""
    functions = library()
    if functions is None:
        return pack_channels(codes, widths)
    codes, widths = np.ascontiguousarray(codes), np.ascontiguousarray(widths)
    data = np.empty(channels_size(widths, codes.shape[1]), dtype=np.uint8)
    call(functions, "kronq_pack_channels", codes, len(widths), widths, codes.shape[1], data)
    return data


def read_scales(file: TensorFile, name: str) -> NDArray[Any]:
    """Reads the scales of a group's matrices.

    Raises:
        FormatError: One is negative or not finite.
    """
    scale = file.array(f"{name}.scale")
    if not np.isfinite(scale).all() or (scale < 0).any():
        raise FormatError(
            f"{name!r} has scales that are negative or not finite",
            path=file.path,
            code="scale",
        )
    return scale
