"""Checks that a packed file has the tensors which its manifest describes, and no others."""

from __future__ import annotations

from collections.abc import Iterator

from kronq import limits
from kronq.errors import FormatError, listing
from kronq.io.safetensors_file import TensorFile
from kronq.model.bit_packing import WIDTH_BITS, packed_size
from kronq.model.frozen_bases import SHORT_DIGEST
from kronq.model.layer_names import TooManyNamesError, count_names
from kronq.packed.manifest import Manifest, MatrixSpec

_FLOAT_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CARRIED = "carried."
"""Front of the names of tensors that a file carries as they came."""
BASES = "bases"
"""Name of the tensor of digests of the cores' bases."""
_ANY_LENGTH = (-1,)
"""Shape of a tensor of one dimension whose length something else in the file determines."""

TensorSpec = tuple[str, tuple[int, ...]]
"""dtype and shape of a tensor."""


def check_tensors(file: TensorFile, manifest: Manifest) -> None:
    """Checks the names, dtypes and shapes of all tensors.

    From here on every layer has bytes of its own in the file, so memory is bounded by its size.

    Raises:
        FormatError: The tensors are not those of the manifest.
    """
    expected = _expected_tensors(file, manifest)
    if expected.keys() != file.entries.keys():
        differing = expected.keys() ^ file.entries.keys()
        raise FormatError(
            "the tensors are not those of the manifest",
            path=file.path,
            found=listing(differing),
            code="tensors",
        )
    for tensor, (dtype, shape) in expected.items():
        entry = file.entries[tensor]
        if tensor.startswith(CARRIED):
            continue
        if shape == _ANY_LENGTH and len(entry.shape) == 1:
            shape = entry.shape
        if (entry.dtype, entry.shape) != (dtype, shape):
            raise FormatError(
                f"tensor {tensor!r} is not what the manifest says",
                path=file.path,
                found=f"{entry.dtype} {list(entry.shape)}",
                expected=f"{dtype} {list(shape)}",
                code="tensors",
            )


def _expected_tensors(file: TensorFile, manifest: Manifest) -> dict[str, TensorSpec]:
    expected: dict[str, TensorSpec] = {}
    layers = cores = 0
    for index, group in enumerate(manifest.groups):
        try:
            size = count_names(group.layers, limit=limits.LAYERS.value - layers)
        except TooManyNamesError as error:
            limits.LAYERS.check(layers + error.count, file.path)
        except ValueError as error:
            raise FormatError(str(error), path=file.path, code="manifest") from None
        layers += size
        cores += size if group.core else 0
        for role, spec in group.tensors().items():
            expected.update(_matrix_tensors(f"{index}.{role}", spec, size))
    if manifest.codes is not None:
        expected["codes"] = ("U8", _ANY_LENGTH)
    if cores:
        expected[BASES] = ("U8", (cores, SHORT_DIGEST))
    expected.update({CARRIED + name: ("", ()) for name in manifest.carried})
    return expected


def _matrix_tensors(name: str, spec: MatrixSpec, layers: int) -> Iterator[tuple[str, TensorSpec]]:
    """Yields the tensors of one matrix of a group's layers."""
    if spec.coded:
        return
    rows, cols = spec.shape
    scale_shape: tuple[int, ...]
    if spec.widths:
        channels = spec.shape[spec.axis or 0]
        yield name, ("U8", _ANY_LENGTH)
        yield f"{name}.widths", ("U8", (layers, packed_size(channels, WIDTH_BITS)))
        scale_shape = _ANY_LENGTH
    elif spec.bits is None:
        yield name, (_FLOAT_TYPES[str(spec.dtype)], (layers, rows, cols))
        return
    else:
        if spec.bits == 8:
            yield name, ("I8", (layers, rows, cols))
        else:
            yield name, ("U8", (layers, packed_size(rows * cols, spec.bits)))
        scale_shape = (layers, *spec.scale_shape)
    if spec.scaled:
        yield f"{name}.scale", ("F16", scale_shape)
