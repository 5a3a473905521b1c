"""Whether the adapter of a record fits a graph, in microseconds for hundreds of layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import StrPath
from kronq.model.base_fingerprint import (
    BaseFingerprint,
    parse_fingerprint,
    refuse_other_base,
)
from kronq.onnx.base_prints import BasePrints
from kronq.onnx.slots.record import check_record, layer_id
from kronq.onnx.slots.record.layout import ENTRY, HEAD, PART
from kronq.onnx.slots.slot_spec import SlotSpec


class RecordFit:
    """The layers of a graph's slots and their weights, by which records are judged.

    Args:
        slots: The graph's slots.
        prints: Fingerprints of its weights; None takes adapters of any base.
    """

    def __init__(self, slots: SlotSpec, prints: BasePrints | None) -> None:
        self._layers = slots.layers
        self._prints = prints
        self._names = {layer_id(name): name for name in slots.layers}
        self._bases: dict[bytes, BaseFingerprint | None] = {}
        known = sorted((layer_id(name), shape) for name, shape in slots.layers.items())
        self._ids = np.array([number for number, _ in known], np.uint64)
        self._shapes = np.array([shape for _, shape in known], np.int64)

    def check(self, record: NDArray[np.uint8], path: StrPath) -> None:
        """Refuses a record with a layer that the graph has no slot for, or one of another shape.

        An adapter is never run in part. Its numbers are those that were added: the pool has
        compared them with their digest.

        Raises:
            MismatchError: It has one.
            FormatError: It is no record.
        """
        if not self._fits(record):
            check_record(record, self._layers, path)  # says which layer

    def check_base(self, record: NDArray[np.uint8], fingerprint: str) -> None:
        """Refuses the adapter of a record that fits, if it is known to be for another base.

        Args:
            record: The record.
            fingerprint: Of its adapter's base, ``Entry.fingerprint``.

        Raises:
            MismatchError: The graph has other weights.
        """
        expected = parse_fingerprint(fingerprint)
        if expected is None or self._prints is None:
            return
        ids = _directory(record)["layer"]
        key = ids.tobytes()
        if key not in self._bases:
            self._bases[key] = self._prints.join([self._names[number] for number in ids.tolist()])
        refuse_other_base(expected, self._bases[key], self._prints.path)

    def _fits(self, record: NDArray[np.uint8]) -> bool:
        count = _layers_of(record)
        directory = _directory(record)
        starts = directory["offset"].astype(np.int64)
        if len(directory) != count or (starts + PART.itemsize > len(record)).any():
            return False
        parts = record[starts[:, None] + np.arange(PART.itemsize)].view(PART)[:, 0]
        places = np.searchsorted(self._ids, directory["layer"])
        if count == 0 or places.max() == len(self._ids):
            return False
        sizes = [parts[size].astype(np.int64) for size in ("a_out", "b_out", "a_in", "b_in")]
        found = np.stack([sizes[0] * sizes[1], sizes[2] * sizes[3]], axis=1)
        same = self._ids[places] == directory["layer"]
        return bool(same.all() and (found == self._shapes[places]).all())


def _layers_of(record: NDArray[np.uint8]) -> int:
    return int(record[: HEAD.itemsize].view(HEAD)["layers"][0])


def _directory(record: NDArray[np.uint8]) -> NDArray[Any]:
    end = HEAD.itemsize + _layers_of(record) * ENTRY.itemsize
    return record[HEAD.itemsize : end].view(ENTRY)
