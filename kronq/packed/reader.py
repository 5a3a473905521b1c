"""The packed file back in: checked against its manifest, memory-mapped, unpacked when asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from kronq.errors import FormatError, StrPath, UnsupportedError, listing
from kronq.io.safetensors_file import TensorFile, open_tensors, refuse_repeated_names
from kronq.model.adapter import Adapter, Origin, Recipe, TaskCheck
from kronq.model.bit_packing import packed_size, unpack_codes
from kronq.model.layer_names import MAX_LAYERS, count_names, expand_templates
from kronq.model.matrix import scale_shape
from kronq.model.stacks import LayerStack, MatrixStack, SeparateMatrices, StackedLayers
from kronq.packed.manifest import VERSION, Group, Manifest, MatrixSpec, RecipeSpec
from kronq.packed.stacks import FloatStack, QuantizedStack, Stack
from kronq.packed.width_planes import ANY, mixed_stack, mixed_tensors, scales_of
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.layer_shape import LayerShape
from kronq.trellis.stream import StreamParameters, open_stream

_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def detect(path: Path) -> TensorFile | None:
    """A safetensors file with kronq's manifest, opened; None for all else."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    file = open_tensors(path)
    return file if "kronq" in file.metadata else None


def read(path: StrPath | TensorFile) -> Adapter:
    """Opens a packed file as an adapter.

    Raises:
        FormatError: The file is damaged, or its tensors are not what its manifest says.
        UnsupportedError: It is of a later version.
    """
    file = path if isinstance(path, TensorFile) else open_tensors(path)
    manifest = read_manifest(file)
    _check_tensors(file, manifest)
    stream = _stream(file, manifest)
    stacks = [_stacked(file, i, group, stream) for i, group in enumerate(manifest.groups)]
    names = [name for stack in stacks for name in stack.names]
    if not names:
        raise FormatError("no adapted layers", path=file.path)
    if len(set(names)) < len(names):
        ((twice, _),) = Counter(names).most_common(1)
        raise FormatError("a layer is there twice", path=file.path, layer=twice)
    recipe = _recipe(manifest.recipe) if manifest.recipe else None
    origin = Origin("kronq", file.path, file.size, manifest.base_model, manifest.cropped_by_base)
    return Adapter(StackedLayers(stacks), origin, recipe)


def _recipe(spec: RecipeSpec) -> Recipe:
    told = spec.model_dump()
    task = None if spec.task is None else TaskCheck(**told["task"])
    return Recipe(**{**told, "task": task})


def read_manifest(file: TensorFile) -> Manifest:
    """The manifest of an open packed file.

    Raises:
        FormatError: There is none, or it is malformed.
        UnsupportedError: It is of a later version.
    """
    text = file.metadata.get("kronq")
    if text is None:
        raise FormatError("no kronq manifest in the header", path=file.path)
    try:
        told = json.loads(text, object_pairs_hook=refuse_repeated_names)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"bad manifest: {error}", path=file.path) from None
    version = told.get("version") if isinstance(told, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedError(
            "the packed file's version is not supported",
            path=file.path,
            found=version,
            expected=VERSION,
            hint="a newer kronq wrote it: upgrade kronq",
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FormatError(f"bad manifest at {where!r}: {first['msg']}", path=file.path) from None


def _check_tensors(file: TensorFile, manifest: Manifest) -> None:
    """That the file has the tensors which its manifest asks for, and no other.

    From here on every layer has bytes of its own in the file, so memory is bounded by its size.
    """
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    layers = 0
    for index, group in enumerate(manifest.groups):
        try:
            size = count_names(group.layers, limit=MAX_LAYERS - layers)
        except ValueError as error:
            raise FormatError(str(error), path=file.path) from None
        layers += size
        for role, spec in group.specs().items():
            wanted.update(_wanted(f"{index}.{role}", spec, size))
    if manifest.codes is not None:
        wanted["codes"] = ("U8", ANY)
    if wanted.keys() != file.entries.keys():
        differing = wanted.keys() ^ file.entries.keys()
        raise FormatError(
            "the tensors are not those of the manifest", path=file.path, found=listing(differing)
        )
    for tensor, (dtype, shape) in wanted.items():
        entry = file.entries[tensor]
        if shape == ANY and len(entry.shape) == 1:
            shape = entry.shape
        if (entry.dtype, entry.shape) != (dtype, shape):
            raise FormatError(
                f"tensor {tensor!r} is not what the manifest says",
                path=file.path,
                found=f"{entry.dtype} {list(entry.shape)}",
                expected=f"{dtype} {list(shape)}",
            )


def _wanted(
    name: str, spec: MatrixSpec, layers: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of one matrix of a group's layers: their names, dtypes and shapes."""
    if spec.coded:
        return
    if spec.widths:
        yield from mixed_tensors(name, spec, layers)
        return
    if spec.bits is None:
        yield name, (_STORED[str(spec.dtype)], (layers, *spec.shape))
        return
    rows, cols = spec.shape
    slab = packed_size(rows * cols, spec.bits)
    yield name, (("I8", (layers, rows, cols)) if spec.bits == 8 else ("U8", (layers, slab)))
    if spec.scaled:
        yield f"{name}.scale", ("F16", (layers, *scale_shape_of(spec)))


def _stream(file: TensorFile, manifest: Manifest) -> Iterator[dict[str, EntropyCoded]]:
    """The coded matrices of every layer that has them, by role, in the order of the manifest."""
    if manifest.codes is None:
        return iter(())
    outlines: list[LayerShape] = []
    roles: list[list[tuple[str, ...]]] = []
    for group in manifest.groups:
        specs = group.specs()
        if not specs["B1"].coded:
            continue
        pairs: list[tuple[str, ...]] = [("A", "A2"), ("B1", "B2")]
        products: list[tuple[str, ...]] = [tuple(r for r in pair if r in specs) for pair in pairs]
        shapes = tuple(tuple(specs[r].shape for r in product) for product in products if product)
        scales = _scales(file, group, count_names(group.layers))
        outlines.extend(LayerShape(shapes, scale) for scale in scales)
        roles.extend([products] * len(scales))
    told = manifest.codes
    data = file.array("codes")
    try:
        parameters = StreamParameters(told.step, told.shifts, told.layer_steps)
        found = open_stream(data, outlines, parameters, file.path)
    except ValueError as error:
        raise FormatError(str(error), path=file.path) from None
    return iter(
        {
            role: matrix
            for product, matrices in zip(filter(None, products), layer, strict=True)
            for role, matrix in zip(product, matrices, strict=True)
        }
        for products, layer in zip(roles, found, strict=True)
    )


def _scales(file: TensorFile, group: Group, layers: int) -> list[float]:
    scales = group.scale if isinstance(group.scale, list) else [group.scale] * layers
    if len(scales) != layers:
        raise FormatError(
            "as many scales as layers", path=file.path, found=len(scales), expected=layers
        )
    return scales


def _stacked(
    file: TensorFile, index: int, group: Group, stream: Iterator[dict[str, EntropyCoded]]
) -> LayerStack:
    names = names_of(file, group)
    scales = _scales(file, group, len(names))
    stacks: dict[str, MatrixStack]
    if group.B1.coded:
        layers = [next(stream) for _ in names]
        stacks = {
            role: SeparateMatrices([layer[role] for layer in layers]) for role in group.specs()
        }
    else:
        specs = group.specs()
        stacks = {role: _stack(file, f"{index}.{role}", spec) for role, spec in specs.items()}
    a, b = (
        tuple(stacks[role] for role in roles if role in stacks)
        for roles in (("A", "A2"), ("B1", "B2"))
    )
    try:
        return LayerStack(names, group.shape, scales, a, b)
    except ValueError as error:
        raise FormatError(str(error), path=file.path, layer=names[0]) from None


def _stack(file: TensorFile, name: str, spec: MatrixSpec) -> MatrixStack:
    if spec.widths:
        return mixed_stack(file, name, spec)
    array = file.array(name)
    if spec.bits is None:
        return FloatStack(array)
    bits, size = spec.bits, spec.shape[0] * spec.shape[1]

    def unpack(first: int, stop: int) -> NDArray[np.int8]:
        slabs = array[first:stop]
        codes = slabs if bits == 8 else unpack_codes(slabs, bits, size)
        return codes.reshape(stop - first, *spec.shape)

    scales = scales_of(file, name) if spec.scaled else None
    stack = Stack(len(array), spec.shape, unpack)
    return QuantizedStack(stack, scales, spec.axis or 0, bits, spec.group_size)


def names_of(file: TensorFile, group: Group) -> list[str]:
    names = expand_templates(group.layers)
    for name in names:
        if not name or "{" in name or "}" in name:
            raise FormatError("a layer's name is empty or has braces", path=file.path, found=name)
    return names


def scale_shape_of(spec: MatrixSpec) -> tuple[int, ...]:
    return scale_shape(spec.shape, spec.axis or 0, spec.group_size)
