"""Adapters as packed files: deterministic, and small including the header."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from kronq.errors import FormatError, StrPath, check_text, check_type
from kronq.io.files import new_file
from kronq.io.tensor_writer import TensorParts, tensor_bytes, tensors_size
from kronq.model.adapter import Adapter, check_finite
from kronq.model.bit_packing import U8
from kronq.model.matrix import Quantized
from kronq.model.stacks import StackedLayers
from kronq.packed.bases import core_shape, describe_bases, pack_bases
from kronq.packed.checksum import KEY, UNSET, write_sealed
from kronq.packed.groups import (
    describe_group,
    group_layers,
    group_stacks,
    matrices_by_role,
    stacks_by_role,
)
from kronq.packed.manifest import VERSION, CodesSpec, Group, Manifest, RecipeSpec
from kronq.packed.provenance import describe_base, provenance_of, to_spec
from kronq.packed.tensor_check import CARRIED
from kronq.packed.tensors import Tensors, mixed_size, mixed_tensors, pack_stacks
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.stream import EncodedStream, StreamParameters, encode_layers

SUFFIX = ".safetensors"


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
    adapter = replace(adapter, provenance=provenance_of(adapter))
    contents = _contents(adapter, _stream(adapter, None))
    with new_file(path, force=force) as work, work.open("wb") as stream:
        write_sealed(tensor_bytes(*contents), stream)
    return Path(path)


def pack(adapter: Adapter) -> bytes:
    """Packs ``adapter`` in memory: the bytes of the file that ``save`` writes.

    Args:
        adapter: Quantized or not. The same adapter gives the same bytes.

    Raises:
        FormatError: A layer's name cannot be packed, or a layer has values that are not finite.

    Example:
        >>> adapter = kronq.Adapter.from_state_dict(tensors, config)
        >>> data = kronq.pack(kronq.quantize(adapter, bits=4))
    """
    check_type("adapter", adapter, Adapter)
    check_finite(adapter)
    return pack_adapter(replace(adapter, provenance=provenance_of(adapter)))


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
    file = io.BytesIO()
    write_sealed(tensor_bytes(*_contents(adapter, _stream(adapter, stream))), file)
    return file.getvalue()


def packed_size(adapter: Adapter, stream: EncodedStream | None = None) -> int:
    """Returns the bytes of the packed file. No codes are packed for it.

    Args:
        adapter: Quantized or not.
        stream: Stream of its coded layers in the file's order, if at hand already.
    """
    return tensors_size(*_contents(adapter, _stream(adapter, stream)))


class SizeByWidths:
    """Bytes of the packed file of an adapter, were the widths of its channels others.

    Args:
        adapter: One with native codes, of any values.

    Attributes:
        nbytes: Bytes of its own file.
    """

    def __init__(self, adapter: Adapter) -> None:
        grouped = group_layers(adapter)
        self._tensors, self._metadata = _contents(adapter, None, grouped)
        self.nbytes = tensors_size(self._tensors, self._metadata)
        self._mixed: list[tuple[str, str, list[str], Quantized]] = []
        for index, names in enumerate(grouped):
            for role, matrix in matrices_by_role(adapter[names[0]]).items():
                if isinstance(matrix, Quantized) and matrix.widths is not None:
                    self._mixed.append((f"{index}.{role}", role, names, matrix))

    def measure(self, widths: Mapping[tuple[str, str], U8]) -> int:
        """Returns the bytes with these widths: (layer, role of its matrix) → [channels]."""
        tensors = dict(self._tensors)
        for tensor, role, names, first in self._mixed:
            stacked = np.stack([widths[name, role] for name in names])
            size = mixed_size(stacked, first.shape[1 - first.axis])
            scales = np.zeros(np.count_nonzero(stacked), dtype=np.float16)
            tensors[tensor] = TensorParts(np.dtype(np.uint8), (size,), lambda: ())
            tensors |= mixed_tensors(tensor, stacked, None if first.scale is None else scales)
        return tensors_size(tensors, self._metadata)


def _stream(adapter: Adapter, stream: EncodedStream | None) -> EncodedStream | None:
    if stream is not None or not _has_codes(adapter):
        return stream
    return encode_layers([adapter[name] for names in group_layers(adapter) for name in names])


def _has_codes(adapter: Adapter) -> bool:
    """Returns whether any layer is entropy-coded."""
    if isinstance(adapter.layers, StackedLayers):
        return any(isinstance(each.first.b.left, EntropyCoded) for each in adapter.layers.stacks)
    return any(isinstance(delta.b.left, EntropyCoded) for delta in adapter.values())


def _contents(
    adapter: Adapter,
    stream: EncodedStream | None,
    grouped: Sequence[Sequence[str]] | None = None,
) -> tuple[Tensors, dict[str, str]]:
    """Returns the tensors of a file, and its manifest as metadata.

    Args:
        adapter: The adapter.
        stream: Of its coded layers, or None.
        grouped: Its groups, if at hand already.
    """
    tensors: Tensors = {}
    groups = []
    grouped = group_layers(adapter) if grouped is None else grouped
    for index, names in enumerate(grouped):
        stacks = group_stacks(adapter, names)
        roles = [stacks_by_role(stack) for stack in stacks]
        counts = [len(stack.names) for stack in stacks]
        for role in roles[0]:
            tensors |= pack_stacks(f"{index}.{role}", [each[role] for each in roles], counts)
        core = core_shape(adapter, names[0])
        groups.append(describe_group(stacks, adapter.origin.keys, core))
    if stream is not None:
        tensors["codes"] = np.frombuffer(stream.data, dtype=np.uint8)
    tensors |= pack_bases(adapter, grouped)
    tensors |= {CARRIED + name: array for name, array in adapter.carried.items()}
    keys = adapter.origin.keys.values()
    for name in (*adapter, *keys, *adapter.carried, adapter.origin.base_model or ""):
        check_text("a name", name)
    manifest = _manifest(adapter, groups, None if stream is None else stream.parameters)
    text = manifest.model_dump_json(exclude_defaults=True, exclude_none=True)
    return tensors, {KEY: UNSET, "kronq": text}


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
        version=VERSION,
        base_model=adapter.origin.base_model,
        cropped_by_base=adapter.origin.cropped_by_base,
        recipe=recipe,
        codes=codes,
        groups=groups,
        carried=carried,
        bases=describe_bases(adapter),
        provenance=to_spec(adapter.provenance),
        base_weights=describe_base(adapter),
    )
