"""Adapters as packed files: deterministic, and small including the header."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize

from kronq.errors import FormatError, StrPath, check_text, check_type
from kronq.io.files import write_file
from kronq.model.adapter import Adapter, check_finite
from kronq.model.bit_packing import (
    CODES_PER_BYTE,
    WIDTH_BITS,
    pack_channels,
    pack_rows,
)
from kronq.model.delta import ONE, Delta
from kronq.model.flat_names import flatten
from kronq.model.layer_names import MAX_NAME, compress_names, name_template, natural_key
from kronq.model.matrix import Float, Matrix, Quantized
from kronq.packed.manifest import (
    CodesSpec,
    Group,
    Manifest,
    MatrixSpec,
    RecipeSpec,
    required_version,
)
from kronq.packed.tensor_check import CARRIED
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.stream import EncodedStream, StreamParameters, encode_layers

SUFFIX = ".safetensors"

_TOGETHER = 2**20
"""Codes that are packed at once."""

Tensors = dict[str, NDArray[Any]]


def save(adapter: Adapter, path: StrPath, *, force: bool = False) -> Path:
    """Packs ``adapter`` into ``path``, whole or not at all.

    Args:
        adapter: Quantized or not.
        path: The file, which ends in ``.safetensors``.
        force: Overwrites an existing file.

    Returns:
        The path.

    Raises:
        OutputExistsError: The file is there and ``force`` is not set.
        FormatError: A layer's name cannot be packed, or ``path`` has another suffix;
            or a layer has values that are not finite.

    Example:
        >>> kronq.save(kronq.quantize(kronq.load("adapter")), "adapter.safetensors")
    """
    check_type("adapter", adapter, Adapter)
    check_packed_name(path)
    check_finite(adapter)
    return write_file(path, pack_adapter(adapter), force=force)


def check_packed_name(path: StrPath) -> None:
    """Refuses a name that does not end in ``.safetensors``, by which packed files are recognized.

    Raises:
        FormatError: It has another suffix.
    """
    check_type("path", path, str, os.PathLike)
    if Path(path).suffix != SUFFIX:
        raise FormatError("the packed file's name", path=path, expected=f"a {SUFFIX} file")


def pack_adapter(adapter: Adapter, stream: EncodedStream | None = None) -> bytes:
    """Packs an adapter; the same adapter gives the same bytes.

    Args:
        adapter: Quantized or not.
        stream: Stream of its coded layers in the file's order, if at hand already.

    Returns:
        The bytes of the packed file.

    Raises:
        FormatError: A layer's name is empty, too long or has braces, which templates use.
    """
    grouped = group_layers(adapter)
    tensors: Tensors = {}
    groups = []
    for index, names in enumerate(grouped):
        layers = [adapter[name] for name in names]
        matrices = [matrices_by_role(layer) for layer in layers]
        for role in matrices[0]:
            tensors |= _pack_matrices(f"{index}.{role}", [each[role] for each in matrices])
        magnitudes = [m for layer in layers if (m := layer.magnitude) is not None]
        tensors |= _pack_matrices(f"{index}.magnitude", [*magnitudes])
        groups.append(_describe_group(names, layers, adapter.origin.keys))
    if stream is None:
        stream = encode_layers([adapter[name] for names in grouped for name in names])
    if stream is not None:
        tensors["codes"] = np.frombuffer(stream.data, dtype=np.uint8)
    tensors |= {CARRIED + name: array for name, array in adapter.carried.items()}
    keys = adapter.origin.keys.values()
    for name in (*adapter, *keys, *adapter.carried, adapter.origin.base_model or ""):
        check_text("a name", name)
    manifest = _manifest(adapter, groups, None if stream is None else stream.parameters)
    text = manifest.model_dump_json(exclude_defaults=True, exclude_none=True)
    # safetensors writes an array's memory, whatever its strides say.
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    # One metadata key, because the library writes several in no fixed order.
    return bytes(serialize(contiguous, {"kronq": text}))


def _manifest(
    adapter: Adapter, groups: list[Group], parameters: StreamParameters | None
) -> Manifest:
    recipe = RecipeSpec(**asdict(adapter.recipe)) if adapter.recipe else None
    codes = None
    if parameters is not None:
        codes = CodesSpec(
            step=parameters.step, shifts=parameters.shifts, layer_steps=parameters.has_offsets
        )
    carried = sorted(adapter.carried)
    return Manifest(
        version=required_version(groups, codes, recipe, carried),
        base_model=adapter.origin.base_model,
        cropped_by_base=adapter.origin.cropped_by_base,
        recipe=recipe,
        codes=codes,
        groups=groups,
        carried=carried,
    )


def group_layers(adapter: Adapter) -> list[list[str]]:
    """Groups the layers' names, in the file's order, by shape and recipe.

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
        kind = (*_group_key(adapter[name]), _key_front(name, adapter.origin.keys.get(name)))
        groups.setdefault(kind, []).append(name)
    return list(groups.values())


def _key_front(name: str, key: str | None) -> str | bool | None:
    """Returns the text in front of a flattened name in its key; True if the key is no such."""
    if key is None:
        return None
    flat = flatten(name)
    return key.removesuffix(flat) if key.endswith(flat) else True


def matrices_by_role(delta: Delta) -> dict[str, Matrix]:
    """Returns the matrices of a layer by their role in the file: A, A2, B1 and B2."""
    a = {} if delta.a is ONE else dict(zip(("A", "A2"), delta.a.matrices, strict=False))
    return a | dict(zip(("B1", "B2"), delta.b.matrices, strict=False))


def _group_key(delta: Delta) -> tuple[object, ...]:
    specs = ((role, str(_describe(m))) for role, m in matrices_by_role(delta).items())
    magnitude = None if delta.magnitude is None else str(_describe(delta.magnitude))
    return (delta.shape, delta.kernel, magnitude, *specs)


def _describe(matrix: Matrix) -> MatrixSpec:
    if isinstance(matrix, EntropyCoded):
        return MatrixSpec(shape=matrix.shape)
    fields: dict[str, object] = {"shape": matrix.shape}
    if isinstance(matrix, Quantized):
        fields |= {"axis": matrix.axis, "group_size": matrix.group_size}
        fields |= {"widths": True} if matrix.widths is not None else {"bits": matrix.bits}
        fields |= {"scaled": matrix.scale is not None}
    else:
        fields |= {"dtype": matrix.dtype}
    return MatrixSpec.model_validate(fields)


def _describe_group(names: list[str], layers: list[Delta], keys: Mapping[str, str]) -> Group:
    first, scales = layers[0], [layer.scale for layer in layers]
    specs = {role: _describe(matrix) for role, matrix in matrices_by_role(first).items()}
    front = _key_front(names[0], keys.get(names[0]))
    return Group(
        layers=compress_names(names),
        shape=first.shape,
        scale=scales[0] if len(set(scales)) == 1 else scales,
        **specs,
        kernel=first.kernel,
        magnitude=None if first.magnitude is None else _describe(first.magnitude),
        keys=compress_names([keys[n] for n in names]) if front is True else front or None,
    )


def _pack_matrices(name: str, matrices: list[Matrix]) -> Tensors:
    """Packs one matrix of every layer of a group; none if they are in the stream."""
    floats = [m.array for m in matrices if isinstance(m, Float)]
    if floats:
        return {name: np.stack(floats)}
    quantized = [m for m in matrices if isinstance(m, Quantized)]
    if not quantized:
        return {}
    if quantized[0].widths is not None:
        return _pack_mixed_widths(name, quantized)
    codes = np.stack([np.asarray(q.codes, dtype=np.int8) for q in quantized])
    bits = quantized[0].bits
    packed = codes if bits == 8 else pack_rows(codes.reshape(len(codes), -1), bits)
    scales = [q.scale for q in quantized if q.scale is not None]
    return {name: packed} | ({f"{name}.scale": np.stack(scales)} if scales else {})


def _pack_mixed_widths(name: str, matrices: list[Quantized]) -> Tensors:
    """Packs channels of mixed widths: codes, widths and scales, but for channels of no bits."""
    widths = np.stack([m.widths for m in matrices if m.widths is not None])
    step = max(1, _TOGETHER // max(1, matrices[0].codes.size))
    parts = []
    for start in range(0, len(matrices), step):
        some = matrices[start : start + step]
        codes = [np.asarray(m.codes, dtype=np.int8) for m in some]
        channels = np.stack(codes if matrices[0].axis == 0 else [x.T for x in codes])
        flat = channels.reshape(-1, channels.shape[2])
        parts.append(pack_channels(flat, widths[start : start + step].reshape(-1)).tobytes())
    least = -(-sum(m.codes.size for m in matrices) // CODES_PER_BYTE)
    data = b"".join(parts).ljust(least, b"\0")
    tensors: Tensors = {name: np.frombuffer(data, dtype=np.uint8)}
    tensors[f"{name}.widths"] = pack_rows(widths, WIDTH_BITS)
    scales = [m.scale for m in matrices if m.scale is not None]
    return tensors | ({f"{name}.scale": np.stack(scales)[widths > 0]} if scales else {})
