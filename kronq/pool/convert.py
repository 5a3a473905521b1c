"""An adapter as a pool's record: read, and its codes written as the operator takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from kronq.errors import StrPath
from kronq.io.input_path import find_input
from kronq.model.adapter import Adapter
from kronq.onnx.base_prints import BasePrints, read_prints
from kronq.onnx.slots.record import adapter_record
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.pool.entry import Entry, check_name
from kronq.pool.record import record_digest
from kronq.pool.writing import NewRecord
from kronq.readers.find_adapters import adapter_files
from kronq.readers.load import load


@dataclass(frozen=True, eq=False)
class Target:
    """The graph that adapters are meant for.

    Attributes:
        layers: Its slots: layer → (d_out, d_in).
        prints: Fingerprints of its weights.
    """

    layers: Mapping[str, tuple[int, int]]
    prints: BasePrints

    @classmethod
    def read(cls, folder: StrPath) -> Target:
        """Reads what a model with slots tells of itself.

        Raises:
            UnsupportedError: It has none.
        """
        return cls(SlotSpec.read(folder).layers, read_prints(Path(folder)))


def convert_adapter(
    name: str,
    source: StrPath | Adapter,
    reading: Mapping[str, Any] | None = None,
    target: Target | None = None,
) -> NewRecord:
    """Reads an adapter and makes its record.

    Args:
        name: Its name in the pool.
        source: Any adapter that ``kronq.load`` reads, or one from memory.
        reading: Arguments of ``kronq.load``.
        target: The graph that will read it; None takes the layers as the adapter has them.

    Raises:
        ArgumentError: The name is not one for a pool.
        MismatchError: A layer has no slot in the graph, or another shape; or the adapter was
            calibrated or tested with another base than the graph's.
        UnsupportedError: The adapter cannot be served from a pool.
    """
    name = check_name(name)
    if isinstance(source, Adapter):
        adapter, stamp = source, ""
    else:
        path = find_input(source)
        stamp = source_stamp(path, reading or {}, target)
        adapter = load(path, **(reading or {}))
    if target is not None:
        target.prints.check(adapter)
    data = adapter_record(adapter, None if target is None else target.layers)
    recipe = adapter.recipe
    entry = Entry(
        name=name,
        generation=0,
        offset=0,
        size=len(data),
        tag=0,
        digest=record_digest(data),
        source=stamp,
        base=adapter.origin.base_model or "",
        fingerprint="" if adapter.base is None else adapter.base.text,
        method="" if recipe is None else recipe.method,
        bits=8 * len(data) / adapter.parameters,
        error=None if recipe is None else recipe.relative_error,
        parameters=adapter.parameters,
        layers=len(adapter),
        added="",
    )
    return NewRecord(entry, data)


def source_stamp(path: Path, reading: Mapping[str, Any], target: Target | None = None) -> str:
    """Returns the SHA-256 of an adapter's file, and what else the record's numbers depend on.

    Of a PEFT folder, that of its config and its tensors, one after the other; of PEFT's tensors in
    a file alone, that of the file and the config beside it.
    """
    state = hashlib.sha256()
    for file in adapter_files(path):
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                state.update(chunk)
    usual = {name: each.default for name, each in signature(load).parameters.items()}
    given = [
        f"{name}={value!r}"
        for name, value in sorted(reading.items())
        if name != "verify" and value != usual[name]
    ]
    if target is not None:
        told = repr((sorted(target.layers.items()), target.prints.digest)).encode()
        given.append(f"slots={hashlib.sha256(told).hexdigest()[:16]}")
    return " ".join([state.hexdigest(), *given])
