"""Packed files as adapters: checked against the manifest, memory-mapped, unpacked when used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronq import limits
from kronq.errors import FormatError, StrPath
from kronq.io.safetensors_file import TensorFile, open_tensors
from kronq.model.adapter import Adapter, Origin, Recipe, TaskCheck
from kronq.model.bit_packing import unpack_codes
from kronq.model.flat_names import flatten
from kronq.model.layer_names import count_names, expand_templates
from kronq.model.mapped_pages import is_mapped, release_pages
from kronq.model.matrix_stacks import FloatStack, MatrixStack
from kronq.model.stacks import LayerStack, StackedLayers
from kronq.packed.bases import read_bases
from kronq.packed.checksum import KEY, missing_checksum, verify_checksum
from kronq.packed.code_stacks import CodeStack, QuantizedStack
from kronq.packed.groups import PRODUCTS
from kronq.packed.manifest import (
    CodesSpec,
    Group,
    Manifest,
    MatrixSpec,
    RecipeSpec,
    read_manifest,
)
from kronq.packed.mixed_widths import read_mixed_stack, read_scales
from kronq.packed.provenance import from_spec, read_base
from kronq.packed.tensor_check import CARRIED, check_tensors
from kronq.trellis.coded_stacks import CodedGroup, CodedStack, open_stream
from kronq.trellis.stream import StreamParameters

_LARGEST_SCALE = float(np.finfo(np.float32).max)
_SEALED = 4
"""First version whose files have a checksum."""
"""Roles of each product's matrices."""


def open_packed(path: Path) -> TensorFile | None:
    """Opens a safetensors file with kronq's manifest; returns None for any other file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    file = open_tensors(path)
    return file if "kronq" in file.metadata else None


def read_packed(path: StrPath | TensorFile, *, verify: bool = True) -> Adapter:
    """Reads a packed file as an adapter.

    Args:
        path: The file, or the open one.
        verify: Whether its checksum is compared, for which all of it is read.

    Raises:
        FormatError: The file is damaged, or its tensors are not what its manifest says.
        UnsupportedError: The file is of a later version.
    """
    file = path if isinstance(path, TensorFile) else open_tensors(path)
    if verify and KEY in file.metadata:
        verify_checksum(file.mapped)
    manifest = read_manifest(file)
    if verify and KEY not in file.metadata and manifest.version >= _SEALED:
        raise missing_checksum(file.path)
    check_tensors(file, manifest)
    _check_ranks(file, manifest)
    coded = _coded_groups(file, manifest)
    stacks = [_layer_stack(file, i, group, coded) for i, group in enumerate(manifest.groups)]
    names = [name for stack in stacks for name in stack.names]
    if not names:
        raise FormatError("no adapted layers", path=file.path, code="manifest")
    if len(set(names)) < len(names):
        ((repeated, _),) = Counter(names).most_common(1)
        raise FormatError(
            "a layer is there twice", path=file.path, layer=repeated, code="duplicate"
        )
    recipe = _recipe(manifest.recipe) if manifest.recipe else None
    base, cropped = manifest.base_model, manifest.cropped_by_base
    keys = _source_keys(file, manifest, stacks)
    checksum = file.metadata.get(KEY)
    origin = Origin(
        "kronq",
        *(file.path, file.size, base, cropped, keys),
        checksum=checksum,
        verified=verify,
        tensors=file.path,
    )
    carried = {name: file.any_array(CARRIED + name) for name in manifest.carried}
    bases = read_bases(file, manifest, stacks)
    provenance = from_spec(manifest.provenance)
    base_weights = read_base(manifest.base_weights, len(names))
    return Adapter(StackedLayers(stacks), origin, recipe, carried, bases, provenance, base_weights)


def _source_keys(
    file: TensorFile, manifest: Manifest, stacks: Sequence[LayerStack]
) -> dict[str, str]:
    """Returns layer → key in the source file, of the groups that have keys.

    Raises:
        FormatError: A group has as many keys as layers, and this one has not.
    """
    keys: dict[str, str] = {}
    for group, stack in zip(manifest.groups, stacks, strict=True):
        if isinstance(group.keys, str):
            keys |= {name: group.keys + flatten(name) for name in stack.names}
        elif group.keys is not None:
            try:
                listed = expand_templates(group.keys, limit=len(stack.names))
                keys |= zip(stack.names, listed, strict=True)
            except ValueError:
                raise FormatError(
                    "as many keys as layers", path=file.path, layer=stack.names[0], code="manifest"
                ) from None
    return keys


def _check_ranks(file: TensorFile, manifest: Manifest) -> None:
    for group in manifest.groups:
        for left, right in ((group.A, group.A2), (group.B1, group.B2)):
            if left is not None and right is not None:
                limits.RANK.check(left.shape[1], file.path, group.layers[0])


def _recipe(spec: RecipeSpec) -> Recipe:
    fields = spec.model_dump()
    task = None if spec.task is None else TaskCheck(**fields["task"])
    return Recipe(**{**fields, "task": task})


def layer_names(file: TensorFile, group: Group) -> list[str]:
    """Returns the names of a group's layers.

    Raises:
        FormatError: One is empty or has braces.
    """
    names = expand_templates(group.layers)
    for name in names:
        if not name or "{" in name or "}" in name:
            raise FormatError(
                "a layer's name is empty or has braces", path=file.path, found=name, code="manifest"
            )
    return names


def _layer_scales(file: TensorFile, group: Group, layers: int) -> list[float]:
    scales = group.scale if isinstance(group.scale, list) else [group.scale] * layers
    if len(scales) != layers:
        raise FormatError(
            "as many scales as layers",
            path=file.path,
            found=len(scales),
            expected=layers,
            code="manifest",
        )
    if max(map(abs, scales), default=0) <= _LARGEST_SCALE:
        return scales
    for layer, scale in enumerate(scales):
        if abs(scale) > _LARGEST_SCALE:
            raise FormatError(
                "the scale is beyond float32",
                path=file.path,
                layer=layer_names(file, group)[layer],
                found=f"{scale:g}",
                expected=f"at most {_LARGEST_SCALE:g}",
                code="scale",
            )
    return scales


def _coded_groups(file: TensorFile, manifest: Manifest) -> Iterator[dict[str, CodedStack]]:
    """Returns the matrices of every coded group by role, in the order of the manifest."""
    if manifest.codes is None:
        return iter(())
    groups = [group for group in manifest.groups if group.B1.coded]
    return _open_coded_groups(file, manifest.codes, groups)


def _open_coded_groups(
    file: TensorFile, codes: CodesSpec, groups: list[Group]
) -> Iterator[dict[str, CodedStack]]:
    counts = [count_names(group.layers) for group in groups]
    data = file.array("codes")
    limits.CODED_LAYERS.check(-(-sum(counts) // max(1, len(data))), file.path)
    coded: list[CodedGroup] = []
    for group, count in zip(groups, counts, strict=True):
        specs = group.specs()
        products = [[specs[r].shape for r in product if r in specs] for product in PRODUCTS]
        shape = tuple(tuple(product) for product in products if product)
        coded.append(CodedGroup(shape, _layer_scales(file, group, count)))
    parameters = StreamParameters(codes.step, codes.shifts, codes.layer_steps)
    try:
        stacks = open_stream(data, coded, parameters, file.path)
    except ValueError as error:
        raise FormatError(str(error), path=file.path) from None
    return (
        dict(zip(group.specs(), (m for product in of_group for m in product), strict=True))
        for group, of_group in zip(groups, stacks, strict=True)
    )


def _layer_stack(
    file: TensorFile, index: int, group: Group, coded: Iterator[dict[str, CodedStack]]
) -> LayerStack:
    """Reads a group; its matrices are the next of ``coded``, if they are entropy-coded."""
    names = layer_names(file, group)
    scales = _layer_scales(file, group, len(names))
    specs = group.specs()
    stacks: dict[str, MatrixStack]
    if group.B1.coded:
        stacks = {**next(coded)}
    else:
        stacks = {r: _matrix_stack(file, f"{index}.{r}", spec) for r, spec in specs.items()}
    magnitude = None
    if group.magnitude is not None:
        magnitude = _matrix_stack(file, f"{index}.magnitude", group.magnitude)
    a, b = (tuple(stacks[role] for role in roles if role in stacks) for roles in PRODUCTS)
    try:
        return LayerStack(names, group.shape, scales, a, b, group.kernel, magnitude)
    except ValueError as error:
        raise FormatError(str(error), path=file.path, layer=names[0], code="manifest") from None


def _matrix_stack(file: TensorFile, name: str, spec: MatrixSpec) -> MatrixStack:
    if spec.widths:
        return read_mixed_stack(file, name, spec)
    array = file.array(name)
    if spec.bits is None:
        return FloatStack(array)
    bits, size = spec.bits, spec.shape[0] * spec.shape[1]

    def unpack(first: int, stop: int) -> NDArray[np.int8]:
        packed = array[first:stop]
        if bits == 8:
            codes = packed.copy() if is_mapped(packed) else packed
        else:
            codes = unpack_codes(packed, bits, size)
        release_pages(packed)
        return codes.reshape(stop - first, *spec.shape)

    scales = read_scales(file, name) if spec.scaled else None
    stack = CodeStack(len(array), spec.shape, unpack)
    return QuantizedStack(stack, scales, spec.axis or 0, bits, spec.group_size)
