"""Good pools and requests, and what reads them, for ``readers``."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from kronq import Pool
from kronq.errors import FormatError, KronqError
from kronq.onnx.slots.record import adapter_record
from kronq.onnx.slots.record.read import read_record
from kronq.pool.check import check
from kronq.pool.compaction import compact
from kronq.pool.writing import append
from kronq.serve.bodies_read import parse_json
from kronq.serve.fields import ChatFields, CompletionFields, parse_fields
from kronq.serve.refusal import RefusedError
from tests import adapters
from tests.pool.records import content, record

NAMES = ("one", "two", "three")


def pool(folder: Path) -> None:
    append(folder, [record(name, i, 300) for i, name in enumerate(NAMES)])


def read_pool(folder: Path, rng: random.Random) -> None:
    """Finds every adapter as it was added, or not at all."""
    found = 0
    with Pool.open(folder) as opened:
        for i, name in enumerate(NAMES):
            if name not in opened:
                continue
            try:
                with opened.use(name) as entry:
                    bytes_ = opened.bytes[entry.offset : entry.offset + entry.size].copy()
            except FormatError:
                continue
            bytes_[24:32] = 0
            assert np.array_equal(bytes_, content(name, i, 300))
            found += 1
    use = rng.randrange(8)
    if use == 0:
        check(folder)
    elif use == 1:
        compact(folder, force=True)
        with Pool.open(folder) as opened:
            assert len(opened) == found
    elif use == 2:
        append(folder, [record("four")])


ROWS = "rows.json"
TABLES = {"pool": 5, "adapters": 15, "removed": 2}
"""Tables of the index, with their numbers of columns."""


def pool_rows(folder: Path) -> None:
    """The values of a pool's index, to be changed by their structure and put into a sound file."""
    pool(folder)
    with closing(sqlite3.connect(folder / "index.sqlite")) as index:
        rows = {table: list(index.execute(f"SELECT * FROM {table}")) for table in TABLES}  # noqa: S608
    (folder / ROWS).write_text(json.dumps(rows))


def read_pool_rows(folder: Path, rng: random.Random) -> None:
    try:
        rows = json.loads((folder / ROWS).read_bytes())
        with closing(sqlite3.connect(folder / "index.sqlite")) as index, index:
            for table, columns in TABLES.items():
                index.execute(f"DELETE FROM {table}")  # noqa: S608
                marks = ", ".join("?" * columns)
                index.executemany(f"INSERT INTO {table} VALUES ({marks})", rows[table])  # noqa: S608
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError, sqlite3.Error):
        return  # no table has such a row
    read_pool(folder, rng)


def one_record(folder: Path) -> None:
    adapter_record(adapters.adapter(layers=1)).tofile(folder / "x.bin")


def read_one_record(folder: Path, rng: random.Random) -> None:
    for layer in read_record(np.fromfile(folder / "x.bin", np.uint8)).values():
        with np.errstate(all="ignore"):
            layer.dense()


COMPLETION: dict[str, Any] = {
    **{"model": "x", "prompt": ["a", "b"], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9},
    **{"seed": 1, "stop": ["x"], "n": 2, "stream": True, "stream_options": {"include_usage": True}},
    **{
        "user": "u",
        "logit_bias": {},
        "echo": False,
        "tools": [],
        "response_format": {"type": "text"},
    },
}
CHAT: dict[str, Any] = {
    **{"model": "x", "max_completion_tokens": 3, "tool_choice": "auto", "top_logprobs": 0},
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "q"}], "name": "n"},
    ],
}


def requests(folder: Path) -> None:
    (folder / "completion.json").write_text(json.dumps(COMPLETION))
    (folder / "chat.json").write_text(json.dumps(CHAT))


def read_requests(folder: Path, rng: random.Random) -> None:
    kinds = {"completion.json": CompletionFields, "chat.json": ChatFields}
    for name, kind in kinds.items():
        try:
            fields = parse_fields(kind, parse_json((folder / name).read_bytes()))
        except RefusedError as error:
            json.dumps(error.body).encode()
            raise KronqError(error.message) from None
        fields.sampling(0, 1.0)
        assert all(isinstance(stop, str) for stop in fields.stops)
