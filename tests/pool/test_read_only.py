"""A server that has no right to write."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kronq import Pool
from kronq.errors import KronqError
from kronq.pool.index import Index
from kronq.pool.writing import append, remove
from tests.pool.records import is_right, record

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody else"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        append(Path(name, "pool"), [record("a")])
        yield Path(name, "pool")


def as_nobody(work: Callable[[], None]) -> None:
    """Does work in a process without the rights of this one."""
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            work()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_pool_is_read_without_the_right_to_write(folder: Path) -> None:
    def work() -> None:
        with Pool.open(folder) as pool:
            assert is_right(pool, "a")
            assert not pool.refresh()
        for change in (lambda: append(folder, [record("b")]), lambda: remove(folder, ["a"])):
            with pytest.raises(KronqError, match="no right to write this pool"):
                change()

    as_nobody(work)


def test_what_a_killed_writer_began_needs_the_right_to_undo_it(folder: Path) -> None:
    """A copy that was made in the middle of a change, with its journal."""
    database = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
    database.execute("PRAGMA cache_size = 1")  # so that pages are written before the end
    database.execute("PRAGMA cache_spill = 1")
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE pool SET generation = 99")
    for number in range(2000):
        database.execute("INSERT INTO removed VALUES (?, 1)", (f"x{number}",))
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    database.close()
    assert (copy / "index.sqlite-journal").stat().st_size > 0

    def work() -> None:
        with pytest.raises(KronqError, match="killed while it wrote this pool"):
            Pool.open(copy)

    as_nobody(work)
    assert Index(copy).read().head == Index(folder).read().head
    assert is_right(Pool.open(copy), "a")
    as_nobody(lambda: Pool.open(copy).close())
