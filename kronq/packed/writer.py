"""An adapter as one safetensors file: deterministic, and small including its header."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize

from kronq.errors import FormatError, StrPath
from kronq.io.files import write_file
from kronq.model.adapter import Adapter
from kronq.model.bit_packing import CODES_PER_BYTE, WIDTH_BITS, pack_channels, pack_codes
from kronq.model.delta import ONE, Delta
from kronq.model.layer_names import MAX_NAME, compress_names, name_template, natural_key
from kronq.model.matrix import Float, Matrix, Quantized
from kronq.packed.manifest import CodesSpec, Group, Manifest, MatrixSpec, RecipeSpec, version_of
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.stream import encode_layers

SUFFIX = ".safetensors"


def save(adapter: Adapter, path: StrPath, *, force: bool = False) -> Path:
    """Packs ``adapter`` into ``path``, whole or not at all.

    Raises:
        OutputExistsError: The file is there and ``force`` is not set.
        FormatError: A layer's name cannot be packed, or ``path`` has another suffix.
    """
    check_name(path)
    return write_file(path, pack(adapter), force=force)


def check_name(path: StrPath) -> None:
    """A packed file is found out by its suffix too.

    Raises:
        FormatError: It has another.
    """
    if Path(path).suffix != SUFFIX:
        raise FormatError("the packed file's name", path=path, expected=f"a {SUFFIX} file")


def pack(adapter: Adapter) -> bytes:
    """The packed file's bytes: the same adapter gives the same bytes.

    Raises:
        FormatError: A layer's name is empty, too long or has braces, which templates use.
    """
    groups = grouped(adapter)
    tensors: dict[str, NDArray[Any]] = {}
    described = []
    for index, names in enumerate(groups):
        layers = [adapter[name] for name in names]
        for role, matrices in _stacks(layers).items():
            tensors.update(_tensors(f"{index}.{role}", matrices))
        described.append(_describe(names, layers))
    ordered = [adapter[name] for names in groups for name in names]
    codes = encode_layers(ordered)
    if codes is not None:
        tensors["codes"] = np.frombuffer(codes.data, dtype=np.uint8)
    recipe = RecipeSpec(**asdict(adapter.recipe)) if adapter.recipe else None
    stream = (
        None
        if codes is None
        else CodesSpec(
            step=codes.parameters.step,
            shifts=codes.parameters.shifts,
            layer_steps=codes.parameters.has_offsets,
        )
    )
    manifest = Manifest(
        version=version_of(described, stream, recipe),
        base_model=adapter.origin.base_model,
        cropped_by_base=adapter.origin.cropped_by_base,
        recipe=recipe,
        codes=stream,
        groups=described,
    )
    text = manifest.model_dump_json(exclude_defaults=True, exclude_none=True)
    # safetensors writes an array's memory, whatever its strides say.
    rows = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    # One metadata key, because the library writes several in no fixed order.
    return bytes(serialize(rows, {"kronq": text}))


def grouped(adapter: Adapter) -> list[list[str]]:
    """The layers' names in the file's order, those of one shape and recipe together.

    Raises:
        FormatError: A name is empty, too long or has braces, which templates use.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in sorted(adapter, key=lambda n: (name_template(n), natural_key(n), n)):
        if not 0 < len(name) <= MAX_NAME or "{" in name or "}" in name:
            raise FormatError(
                "a layer's name cannot be packed",
                layer=name,
                expected=f"1 to {MAX_NAME} characters and no braces",
            )
        groups.setdefault(_signature(adapter[name]), []).append(name)
    return list(groups.values())


def roles(delta: Delta) -> dict[str, Matrix]:
    """The matrices of a layer by their role in the file."""
    found = {} if delta.a is ONE else dict(zip(("A", "A2"), delta.a.matrices, strict=False))
    return found | dict(zip(("B1", "B2"), delta.b.matrices, strict=False))


def _stacks(layers: list[Delta]) -> dict[str, list[Matrix]]:
    each = [roles(layer) for layer in layers]
    return {role: [matrices[role] for matrices in each] for role in each[0]}


def _signature(delta: Delta) -> tuple[object, ...]:
    return (delta.shape, *((role, str(_spec(m))) for role, m in roles(delta).items()))


def _spec(matrix: Matrix) -> MatrixSpec:
    if isinstance(matrix, EntropyCoded):
        return MatrixSpec(shape=matrix.shape)
    if isinstance(matrix, Quantized):
        how: dict[str, object] = {"axis": matrix.axis, "group_size": matrix.group_size}
        how |= {"widths": True} if matrix.widths is not None else {"bits": matrix.bits}
        how |= {"scaled": matrix.scale is not None}
        return MatrixSpec.model_validate({"shape": matrix.shape, **how})
    return MatrixSpec.model_validate({"shape": matrix.shape, "dtype": matrix.dtype})


def _describe(names: list[str], layers: list[Delta]) -> Group:
    scales = [layer.scale for layer in layers]
    specs = {role: _spec(matrix) for role, matrix in roles(layers[0]).items()}
    return Group(
        layers=compress_names(names),
        shape=layers[0].shape,
        scale=scales[0] if len(set(scales)) == 1 else scales,
        **specs,
    )


def _tensors(name: str, matrices: list[Matrix]) -> dict[str, NDArray[Any]]:
    floats = [m.array for m in matrices if isinstance(m, Float)]
    if floats:
        return {name: np.stack(floats)}
    quantized = [m for m in matrices if isinstance(m, Quantized)]
    if not quantized:
        return {}
    if quantized[0].widths is not None:
        return _mixed(name, quantized)
    codes = [np.asarray(q.codes, dtype=np.int8) for q in quantized]
    bits = quantized[0].bits
    found = {name: np.stack(codes if bits == 8 else [pack_codes(c, bits) for c in codes])}
    scales = [q.scale for q in quantized if q.scale is not None]
    return found | ({f"{name}.scale": np.stack(scales)} if scales else {})


def _mixed(name: str, matrices: list[Quantized]) -> dict[str, NDArray[Any]]:
    """Planes, widths and scales of channels of mixed widths; nothing for those of no bits."""
    planes, widths, scales = [], [], []
    for m in matrices:
        assert m.widths is not None  # noqa: S101
        planes.append(pack_channels(np.asarray(m.codes, dtype=np.int8), m.widths, m.axis))
        widths.append(pack_codes(m.widths, WIDTH_BITS))
        if m.scale is not None:
            scales.append(m.scale[m.widths > 0])
    least = -(-sum(m.codes.size for m in matrices) // CODES_PER_BYTE)
    data = b"".join(planes).ljust(least, b"\0")
    found: dict[str, NDArray[Any]] = {name: np.frombuffer(data, dtype=np.uint8)}
    found[f"{name}.widths"] = np.stack(widths)
    return found | ({f"{name}.scale": np.concatenate(scales)} if scales else {})
