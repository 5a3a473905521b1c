"""Changed bytes of the index or of the records lead to an error, never to another adapter."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from kronq import Pool
from kronq.errors import FormatError, KronqError, KronqWarning, NotFoundError
from kronq.pool.check import check
from kronq.pool.compaction import compact
from kronq.pool.writing import append
from tests.pool.records import is_right, record

TIMES = 100

pytestmark = pytest.mark.filterwarnings("ignore::kronq.errors.KronqWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    append(tmp_path / "pool", [record(f"name-{i}", i, 300 + i) for i in range(20)])
    return tmp_path / "pool"


def right_or_refused(folder: Path) -> tuple[int, int]:
    """Counts the names that lead to what was added as them, and those that lead to an error."""
    right = refused = 0
    try:
        pool = Pool.open(folder)
    except KronqError:
        return 0, 20
    with pool:
        for i in range(20):
            try:
                assert is_right(pool, f"name-{i}")
                assert pool.find(f"name-{i}").layers == i
                right += 1
            except (FormatError, NotFoundError):
                refused += 1
    return right, refused


@pytest.mark.parametrize("name", ["index.sqlite", "records-1"])
def test_mutated_files(folder: Path, name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = (folder / name).read_bytes()
    totals = np.zeros(2, int)
    for _ in range(TIMES):
        data = bytearray(whole)
        kind, at = rng.integers(4), int(rng.integers(len(data)))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + 8] = rng.bytes(8)
        elif kind == 2:  # a page in another's place
            page, other = rng.integers(len(data) // 4096, size=2) * 4096
            data[page : page + 4096] = data[other : other + 4096]
        else:
            del data[at:]
        (folder / name).write_bytes(data)
        totals += right_or_refused(folder)
    assert totals.sum() == TIMES * 20
    assert totals.min() > TIMES


def test_a_table_whose_name_is_no_text(folder: Path) -> None:
    """SQLite's message has the name as it is."""
    path = folder / "index.sqlite"
    data = path.read_bytes()
    assert b"sqlite_autoindex_removed_1" in data
    path.write_bytes(
        data.replace(b"sqlite_autoindex_removed_1", b"sqlite_autoindex_remove\x19\x86\xa8")
    )
    with pytest.raises(FormatError, match=r"index\.sqlite: the index is damaged"):
        Pool.open(folder)


def test_rows_that_were_exchanged(folder: Path) -> None:
    """Whoever writes the index by hand, but not its digests, is noticed."""
    changes = (
        "UPDATE adapters SET name = 'name-x' WHERE name = 'name-1'",
        "UPDATE adapters SET offset = offset + 4096 WHERE name = 'name-2'",
        "UPDATE adapters SET tag = (SELECT tag FROM adapters WHERE name = 'name-4'), "
        "offset = 4 * 4096 WHERE name = 'name-3'",
        "UPDATE adapters SET digest = 7 WHERE name = 'name-5'",
        "UPDATE adapters SET size = -1 WHERE name = 'name-6'",
        "UPDATE adapters SET seal = NULL WHERE name = 'name-7'",
    )
    with sqlite3.connect(folder / "index.sqlite") as database:
        for change in changes:
            database.execute(change)
    database.close()
    with pytest.warns(KronqWarning, match="rows of 6 adapters, which are left out"):
        pool = Pool.open(folder)
    assert len(pool) == 14
    assert sorted(check(folder).problems) == sorted(f"name-{i}" for i in ("x", 2, 3, 5, 6, 7))
    with pytest.raises(FormatError, match="rows of the index are damaged"):
        compact(folder)
    assert compact(folder, force=True).adapters == 14
    assert check(folder).problems == {}


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER DELETE ON adapters BEGIN DELETE FROM pool; END",
        "CREATE VIEW v AS SELECT * FROM adapters",
        "DROP TABLE removed",
        "ALTER TABLE pool ADD COLUMN more",
        "DELETE FROM pool",
        "UPDATE pool SET file = '../other'",
        "UPDATE pool SET file = 'records-2'",
        "UPDATE pool SET end = 1e300",
        "UPDATE pool SET end = 'x'",
        "UPDATE pool SET end = -4096",
        "UPDATE pool SET version = 2",
        "UPDATE pool SET id = 'other'",
    ],
)
def test_an_index_that_kronq_did_not_write(folder: Path, change: str) -> None:
    with sqlite3.connect(folder / "index.sqlite") as database:
        database.execute(change)
    database.close()
    assert right_or_refused(folder) == (0, 20)


def test_records_of_another_pool(folder: Path, tmp_path: Path) -> None:
    append(tmp_path / "other", [record(f"name-{i}", i, 300 + i) for i in range(20)])
    shutil.copyfile(tmp_path / "other" / "records-1", folder / "records-1")
    assert right_or_refused(folder) == (0, 20)
    assert len(check(folder).problems) == 20


def test_links_and_pipes_are_not_written_or_waited_for(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "diary"
    (folder / "records-1").rename(target)
    (folder / "records-1").symlink_to(target)
    assert right_or_refused(folder) == (20, 0)  # a cache of links is read
    with pytest.raises(FormatError, match="a link, which is never written"):
        append(folder, [record("x")])
    (folder / "records-1").unlink()
    os.mkfifo(folder / "records-1")
    with pytest.raises(FormatError, match="is no file"):
        Pool.open(folder)


def test_a_damaged_record_is_mended_by_adding_it_again(folder: Path) -> None:
    with (folder / "records-1").open("r+b") as file:
        file.seek(3 * 4096 + 100)
        file.write(b"damage")
    assert list(check(folder).problems) == ["name-3"]
    with pytest.raises(FormatError, match="the adapter's record is damaged"):
        compact(folder)
    append(folder, [record("name-3", 3, 303)], force=True)
    assert check(folder).problems == {}
    assert right_or_refused(folder) == (20, 0)


def test_more_adapters_than_are_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRONQ_MAX_POOL", "19")
    with pytest.raises(FormatError, match="too many adapters in a pool"):
        Pool.open(folder)
