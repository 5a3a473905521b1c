"""Codes of refusals of records, which the operator reads, and of pools."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kronq import Pool
from kronq.onnx.slots.record import adapter_record, check_record
from kronq.onnx.slots.record.layout import HEAD
from kronq.onnx.slots.record.read import read_record
from kronq.pool.check import check
from kronq.pool.writing import append
from tests import adapters
from tests.attacks.refusals import assert_code
from tests.pool.records import record


def edited(field: str, value: int | bytes) -> Callable[[np.ndarray], None]:
    def change(data: np.ndarray) -> None:
        data[: HEAD.itemsize].view(HEAD)[0][field] = value

    return change


RECORDS: dict[str, tuple[str, Callable[[np.ndarray], None]]] = {
    "another magic": ("version", edited("magic", b"otherrec")),
    "a later version": ("version", edited("version", 99)),
    "more layers than bytes": ("truncated", edited("layers", 2**31)),
    "another size": ("truncated", edited("size", 2**40)),
    "a layer beyond the end": ("truncated", lambda d: d[64 + 8 : 64 + 16].fill(0xFF)),
    "sizes without end": ("truncated", lambda d: part(d)[:20].fill(0x7F)),
    "sizes of zero": ("truncated", lambda d: part(d)[:20].fill(0)),
    "types that nobody has": ("truncated", lambda d: part(d)[20:28].fill(99)),
}


def part(data: np.ndarray) -> np.ndarray:
    """The first layer of a record."""
    offset = int(data[HEAD.itemsize + 8 : HEAD.itemsize + 16].view("<u8")[0])
    return data[offset:]


@pytest.mark.parametrize("case", RECORDS)
def test_records(case: str) -> None:
    """The operator's own reader has the same cases, and changed bytes, in test_processors."""
    data = adapter_record(adapters.adapter(layers=1)).copy()
    read_record(data)
    code, change = RECORDS[case]
    change(data)
    assert_code(code, lambda: read_record(data))


def test_records_that_are_cut() -> None:
    data = adapter_record(adapters.adapter(layers=1))
    assert_code("version", lambda: read_record(data[:63]))
    for size in range(64, len(data), 192):
        assert_code("truncated", lambda size=size: read_record(data[:size]))


def test_records_of_another_model() -> None:
    adapter = adapters.adapter(layers=1, kinds=("lora",))
    (name, delta), data = next(iter(adapter.items())), adapter_record(adapter)
    check_record(data, {name: delta.shape})
    assert_code("layers-not-in-base", lambda: check_record(data, {}))
    assert_code("shape", lambda: check_record(data, {name: (7, 7)}))


def execute(statement: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "index.sqlite")) as index, index:
            index.execute(statement)

    return change


def cut(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return change


def link(folder: Path) -> None:
    (folder / "records-1").rename(folder.parent / "elsewhere")
    (folder / "records-1").symlink_to(folder.parent / "elsewhere")


POOLS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no folder": ("not-found", shutil.rmtree),
    "no index": ("not-found", lambda folder: (folder / "index.sqlite").unlink()),
    "no records": ("truncated", lambda folder: (folder / "records-1").unlink()),
    "an index of other bytes": ("checksum", lambda f: (f / "index.sqlite").write_bytes(b"x" * 99)),
    "half an index": ("checksum", cut("index.sqlite", 5000)),
    "half of the records": ("truncated", cut("records-1", 5000)),
    "a later version": ("version", execute("UPDATE pool SET version = 99")),
    "another table": ("format", execute("CREATE VIEW v AS SELECT * FROM adapters")),
    "a path out of the folder": ("checksum", execute("UPDATE pool SET file = '../other'")),
    "an end that is text": ("checksum", execute("UPDATE pool SET end = 'x'")),
    "an end beyond the file": ("truncated", execute("UPDATE pool SET end = 1 << 40")),
}


def pool(folder: Path) -> Path:
    append(folder, [record(name, i, 300) for i, name in enumerate(["one", "two"])])
    return folder


@pytest.mark.parametrize("case", POOLS)
def test_pools(case: str, tmp_path: Path) -> None:
    folder = pool(tmp_path / "pool")
    code, change = POOLS[case]
    change(folder)
    for read in (Pool.open, check):
        assert_code(code, lambda read=read: read(folder).close(), folder)


def test_pools_whose_records_are_links_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pool(tmp_path / "pool")
    with (folder / "records-1").open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with Pool.open(folder) as opened:
        assert_code("checksum", lambda: opened.pin("one"), folder)
        assert_code("not-found", lambda: opened.pin("three"), folder)
    monkeypatch.setenv("KRONQ_MAX_POOL", "1")
    assert_code("limit", lambda: Pool.open(folder), folder)
    monkeypatch.undo()
    link(folder)
    assert_code("outside", lambda: append(folder, [record("three")]), folder)
