"""Cache of adapters as ONNX Runtime loads them: ``$KRONQ_CACHE/adapters/HASH.onnx_adapter``.

A packed file is small; ONNX Runtime needs its factors expanded. That is done the first time that
an adapter is loaded for a graph. The hash covers everything that the numbers depend on, so a file
in the cache never goes stale. The folder may be deleted at any time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kronq.errors import (
    ArgumentError,
    KronqError,
    StrPath,
    UnsupportedError,
)
from kronq.io.cache import cache_folder, digest, new_entry, read_entry, trim
from kronq.io.checksummed import verify_trailer, write_with_trailer
from kronq.io.input_path import find_input
from kronq.io.mapped_file import MappedFile, keep_mapped, map_file
from kronq.io.unfinished import temporary_folder
from kronq.model.adapter import Adapter
from kronq.model.weighted_sum import check_strength, weighted_sum
from kronq.onnx.base_prints import BasePrints
from kronq.onnx.slots.flatbuffer import InputStack, flatbuffer_chunks
from kronq.onnx.slots.slot_inputs import lazy_slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.onnx.slots.write_onnx_adapter import SUFFIX, write_inputs
from kronq.packed.checksum import checksums
from kronq.readers.basis import fold_basis
from kronq.readers.find_adapters import adapter_files
from kronq.readers.load import load

AdapterSource = StrPath | Mapping[str, float] | Mapping[Path, float] | Adapter
"""Path of an adapter, path → strength of those that are added up, or an adapter in memory."""

FORMAT = "4"
"""Version of the expanded numbers, part of the hash."""
_BASIS_FILES = ("*.safetensors", "*.json")
LARGEST_CACHE = 2**30
"""Bytes that the folder may take."""


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """Adapter expanded to a file that ONNX Runtime maps.

    Attributes:
        file: The ``.onnx_adapter``.
        origin: The adapter that it was made from, the first of several, or the file itself; None
            for one in memory.
        cached: Whether it was there already.
        scratch: Temporary folder that ``file`` lies in, where the adapter was in memory or the
            cache cannot be written; deleted with this object.
    """

    file: Path
    origin: Path | None
    cached: bool
    scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)


def prepare_adapter(
    source: AdapterSource,
    slots: SlotSpec,
    cache: StrPath | None = None,
    *,
    basis: StrPath | None = None,
    prints: BasePrints | None = None,
) -> AdapterFile:
    """Expands an adapter, or a sum of several, for one graph, or finds it in the cache.

    Args:
        source: A packed file, a PEFT folder, any other adapter, or an ``.onnx_adapter``; adapters
            with their strengths; or an adapter in memory, which is not kept in the cache.
        slots: The graph's slots.
        cache: Parent folder of the cache; None for ``kronq.io.cache.cache_folder``.
        basis: Where LoRA-XS's R alone finds its frozen bases, as ``kronq.load`` takes it.
        prints: Fingerprints of the graph's weights, which adapters that name their base must have;
            None takes any base.

    Raises:
        FormatError: There is no readable adapter.
        MismatchError: The adapter does not belong to this graph.
        UnsupportedError: An ``.onnx_adapter`` has a strength, or is one of several.
    """
    if isinstance(source, Adapter):
        whole = fold_basis(source, basis)
        if prints is not None:
            prints.check(source)
        fitted = weighted_sum([(whole, 1.0)], shapes=slots.layers)
        return _write_scratch(lazy_slot_inputs(fitted, slots), f"adapter{SUFFIX}", None)
    strengths = _strengths(source)
    origin = next(iter(strengths))
    if list(strengths.values()) == [1.0] and origin.suffix == SUFFIX:
        return AdapterFile(origin, origin, cached=True)
    with keep_mapped():  # the bytes that the key is made of are those that are read
        key = _cache_key(strengths, slots, basis, prints)
        target = cache_folder("adapters", cache) / f"{key}{SUFFIX}"
        if read_entry(target, verify_trailer) is not None:
            return AdapterFile(target, origin, cached=True)
        total = _load_sum(strengths, slots, basis, prints)
    return _write(lazy_slot_inputs(total, slots), target, origin)


def _strengths(source: StrPath | Mapping[str, float] | Mapping[Path, float]) -> dict[Path, float]:
    """Returns the strength of each adapter's path.

    Raises:
        ArgumentError: A strength is no finite number, or there is no adapter.
    """
    if not isinstance(source, Mapping):
        return {find_input(source): 1.0}
    for strength in source.values():
        check_strength(strength)
    if not source:
        raise ArgumentError("no adapters to add up", expected="one or more")
    return {find_input(path): float(strength) for path, strength in source.items()}


def _load_sum(
    strengths: Mapping[Path, float],
    slots: SlotSpec,
    basis: StrPath | None,
    prints: BasePrints | None,
) -> Adapter:
    for path in strengths:
        if path.suffix == SUFFIX:
            raise UnsupportedError(
                "an .onnx_adapter has no strength and does not add up: its factors are fixed",
                path=path,
                hint="give the adapter that it was made from",
            )
    adapters = [(load(path, basis=basis), strength) for path, strength in strengths.items()]
    if prints is not None:
        for adapter, _ in adapters:
            prints.check(adapter)
    return weighted_sum(adapters, shapes=slots.layers)


def _write(values: Sequence[InputStack], target: Path, origin: Path) -> AdapterFile:
    """Writes ``target``, or a temporary file where the cache cannot be written."""
    try:
        with new_entry(target, sync=False) as work:
            write_with_trailer(flatbuffer_chunks(values), work)
    except (OSError, KronqError):  # a full or read-only disk, or no folder at all
        return _write_scratch(values, target.name, origin)
    trim(target.parent, limit=LARGEST_CACHE, keeping=target)
    return AdapterFile(target, origin, cached=False)


def _write_scratch(values: Sequence[InputStack], name: str, origin: Path | None) -> AdapterFile:
    scratch = temporary_folder()
    file = Path(scratch.name, name)
    write_inputs(values, file)
    return AdapterFile(file, origin, cached=False, scratch=scratch)


def _cache_key(
    strengths: Mapping[Path, float],
    slots: SlotSpec,
    basis: StrPath | None,
    prints: BasePrints | None,
) -> str:
    """Returns a digest of the adapters' bytes, their strengths, the graph and the basis."""
    contents: list[str | bytes] = []
    for file in (file for path in strengths for file in adapter_files(path)):
        contents += [file.name, *_contents(map_file(file))]
    numbers = [] if list(strengths.values()) == [1.0] else list(strengths.values())
    weights = [] if prints is None else [prints.digest]
    bases = [] if basis is None else _basis_stamp(find_input(basis, "base"))
    return digest(FORMAT, slots.digest, *contents, *map(repr, numbers), *bases, *weights)


def _contents(file: MappedFile) -> list[bytes]:
    """Returns digests of all bytes of a file: where it has a checksum, by what that is made of."""
    return [*(checksums(file) or (file.sha256,))]


def _basis_stamp(path: Path) -> list[str]:
    """Returns the files of a basis with their sizes and times: a base is too large to be read.

    The numbers do not hang on it: an adapter's bytes have digests of its bases. A basis that has
    changed since is checked against them again.
    """
    folders = [path, *(part for part in path.iterdir() if part.is_dir())] if path.is_dir() else []
    inside = [file for folder in folders for kind in _BASIS_FILES for file in folder.glob(kind)]
    files = [file for file in sorted(inside or [path]) if file.is_file()]
    stats = {str(file.absolute()): file.stat() for file in files}
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats.items()]
