"""Where the numbers of a packed file lie, for programs that map it themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kronq.errors import StrPath
from kronq.io.safetensors_file import TensorFile, open_tensors
from kronq.packed.manifest import MatrixSpec
from kronq.packed.reader import names_of, read, read_manifest, scale_shape_of
from kronq.packed.width_planes import planes_of


@dataclass(frozen=True)
class Location:
    """Where one matrix of one layer lies in the file, for readers that map it themselves.

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


def locate(path: StrPath) -> dict[str, dict[str, Location]]:
    """Layer → role (``A``, ``A2``, ``B1``, ``B2``, and ``B1.scale`` …) → where it lies.

    Raises:
        FormatError: As ``read``.
    """
    read(path)  # for its checks
    file = open_tensors(path)
    places: dict[str, dict[str, Location]] = {}
    for index, group in enumerate(read_manifest(file).groups):
        names = names_of(file, group)
        for role, spec in group.specs().items():
            for part, found in _parts(file, index, role, spec, len(names)):
                for name, place in zip(names, found, strict=True):
                    places.setdefault(name, {})[part] = place
    return places


def _parts(
    file: TensorFile, index: int, role: str, spec: MatrixSpec, layers: int
) -> Iterator[tuple[str, Iterator[Location]]]:
    """The tensors of a matrix, and where each layer's part of them lies."""
    if spec.coded:
        return

    def even(part: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Location]:
        entry = file.entries[f"{index}.{part}"]
        length = entry.nbytes // layers
        return (Location(entry.offset + i * length, length, dtype, shape) for i in range(layers))

    if spec.widths:
        planes = planes_of(file, f"{index}.{role}", spec)
        start = file.entries[f"{index}.{role}"].offset
        yield (
            role,
            (
                Location(start + a, b - a, "mixed", spec.shape)
                for a, b in zip(planes.codes, planes.codes[1:], strict=False)
            ),
        )
        yield f"{role}.widths", even(f"{role}.widths", "uint4", planes.widths.shape[1:])
        if spec.scaled:
            first = file.entries[f"{index}.{role}.scale"].offset
            yield (
                f"{role}.scale",
                (
                    Location(first + 2 * a, 2 * (b - a), "float16", (b - a,))
                    for a, b in zip(planes.scales, planes.scales[1:], strict=False)
                ),
            )
        return
    yield role, even(role, f"int{spec.bits}" if spec.bits else str(spec.dtype), spec.shape)
    if spec.bits and spec.scaled:
        yield f"{role}.scale", even(f"{role}.scale", "float16", scale_shape_of(spec))
