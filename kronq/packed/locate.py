"""Byte ranges of the matrices in a packed file, for programs that map it themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kronq.errors import StrPath
from kronq.io.safetensors_file import TensorFile, open_tensors
from kronq.packed.manifest import MatrixSpec, read_manifest
from kronq.packed.mixed_widths import read_mixed_layout
from kronq.packed.reader import layer_names, read_packed


@dataclass(frozen=True)
class Location:
    """Byte range of one layer's matrix, or of its scales or widths.

    Attributes:
        offset: Bytes from the start of the file.
        length: Bytes.
        dtype: ``float32``, ``float16``, ``bfloat16``, ``int8``, ``int4``, ``int3`` or ``int2``;
            ``mixed`` for channels of several widths, whose widths are ``uint4``.
        shape: Of the matrix, of its scales or of its widths.
    """

    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]


def locate(path: StrPath, *, verify: bool = True) -> dict[str, dict[str, Location]]:
    """Locates every matrix of every layer, but for entropy-coded ones.

    Args:
        path: A packed file.
        verify: Whether its checksum is compared, for which all of it is read.

    Returns:
        Layer → role (``A``, ``A2``, ``B1``, ``B2``, ``magnitude``, and ``B1.scale`` …) → its byte
        range.

    Raises:
        FormatError: The file is damaged, or its tensors are not what its manifest says.
        UnsupportedError: The file is of a later version.
    """
    read_packed(path, verify=verify)  # for its checks
    file = open_tensors(path)
    locations: dict[str, dict[str, Location]] = {}
    for index, group in enumerate(read_manifest(file).groups):
        names = layer_names(file, group)
        for role, spec in group.tensors().items():
            for part, by_layer in _tensor_parts(file, index, role, spec, len(names)):
                for name, location in zip(names, by_layer, strict=True):
                    locations.setdefault(name, {})[part] = location
    return locations


Parts = Iterator[tuple[str, list[Location]]]
"""Tensors of a matrix, named by role, and each layer's part of them."""


def _tensor_parts(file: TensorFile, index: int, role: str, spec: MatrixSpec, layers: int) -> Parts:
    if spec.coded:
        return
    if spec.widths:
        yield from _mixed_parts(file, index, role, spec)
        return
    dtype = f"int{spec.bits}" if spec.bits else str(spec.dtype)
    yield role, _equal_parts(file, f"{index}.{role}", layers, dtype, spec.shape)
    if spec.bits and spec.scaled:
        scale = f"{role}.scale"
        yield scale, _equal_parts(file, f"{index}.{scale}", layers, "float16", spec.scale_shape)


def _mixed_parts(file: TensorFile, index: int, role: str, spec: MatrixSpec) -> Parts:
    name = f"{index}.{role}"
    layout = read_mixed_layout(file, name, spec)
    layers, channels = layout.widths.shape
    start = file.entries[name].offset
    yield role, [Location(start + a, n, "mixed", spec.shape) for a, n in _ranges(layout.codes)]
    widths = _equal_parts(file, f"{name}.widths", layers, "uint4", (channels,))
    yield f"{role}.widths", widths
    if spec.scaled:
        first = file.entries[f"{name}.scale"].offset
        yield (
            f"{role}.scale",
            [Location(first + 2 * a, 2 * n, "float16", (n,)) for a, n in _ranges(layout.scales)],
        )


def _equal_parts(
    file: TensorFile, tensor: str, layers: int, dtype: str, shape: tuple[int, ...]
) -> list[Location]:
    """Divides a tensor into equal parts, one for each layer."""
    entry = file.entries[tensor]
    length = entry.nbytes // layers
    return [Location(entry.offset + i * length, length, dtype, shape) for i in range(layers)]


def _ranges(starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (start, length) of consecutive parts, from their starts and the end of the last."""
    for start, end in pairwise(starts):
        yield start, end - start
