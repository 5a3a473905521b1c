"""Any number of truly different adapters, as records: one adapter's, with its codes changed.

Each code changes in its lowest bit with probability ½, so every adapter is about as large and as
good as the first, and no two are alike. Adapters of whole numbers only: native codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

import kronq
from kronq.onnx.slots.record import adapter_record
from kronq.onnx.slots.record.layout import BFLOAT16, FLOATS
from kronq.onnx.slots.record.read import read_layouts
from kronq.onnx.slots.record.words import pack_in_numpy
from kronq.pool.convert import convert_adapter
from kronq.pool.record import U8, record_digest
from kronq.pool.writing import NewRecord, append

_BATCH = 200


def lowest_bits(record: U8) -> U8:
    """Returns a record that has a 1 in the lowest bit of every code, and nothing else."""
    mask = np.zeros_like(record)
    for offset, layout in read_layouts(record).values():
        for at, kind, rows, cols, columns in (
            (layout.b2_at, layout.b2, layout.b[1], layout.rank, layout.lanes),
            (layout.b1_at, layout.b1, layout.rank, layout.b[0], layout.columns),
        ):
            if kind not in {BFLOAT16, *FLOATS}:
                words = pack_in_numpy(np.ones((1, rows, cols), np.int8), kind, columns)
                data = np.ascontiguousarray(words).view(np.uint8).reshape(-1)
                mask[offset + at : offset + at + data.size] = data
    return mask


def perturbed(adapter: kronq.Adapter, count: int, seed: int = 0) -> Iterator[NewRecord]:
    """Yields records of different adapters, named ``adapter-0``, ``adapter-1``, …"""
    first = convert_adapter("adapter", adapter)
    mask = lowest_bits(adapter_record(adapter))
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = first.data ^ (np.frombuffer(rng.bytes(mask.size), np.uint8) & mask)
        entry = replace(first.entry, name=f"adapter-{number}", digest=record_digest(data))
        yield NewRecord(entry, data)


def fill_pool(path: str, adapter: kronq.Adapter, count: int, seed: int = 0) -> None:
    """Adds that many different adapters to a pool."""
    batch: list[NewRecord] = []
    for each in perturbed(adapter, count, seed):
        batch.append(each)
        if len(batch) == _BATCH:
            append(path, batch)
            batch = []
    append(path, batch)
