"""The index of a pool: a SQLite database that says which record is whose.

Its one lock, SQLite's own, lets one program write at a time while others read. A change is on the
disk before it is seen, and is seen whole.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from kronq import limits
from kronq.errors import FormatError, NotFoundError
from kronq.pool.entry import Entry
from kronq.pool.sqlite_errors import WAIT_SECONDS, sqlite_errors
from kronq.pool.tables import (
    COLUMNS,
    Changes,
    Head,
    check_tables,
    entry_of,
    read_head,
    row_of,
    typed,
)

INDEX = "index.sqlite"
"""Name of the index in the pool's folder."""


class Index:
    """An open index; of one thread at a time.

    Args:
        folder: The pool's folder.
        writing: Whether it will be written.

    Raises:
        NotFoundError: There is no pool.
        FormatError: It is damaged, or not an index of kronq.
    """

    def __init__(self, folder: Path, *, writing: bool = False) -> None:
        self.path = folder / INDEX
        if not self.path.is_file():
            raise NotFoundError(
                "no pool here", path=folder, hint="'kronq pool add' makes one of adapters"
            )
        with sqlite_errors(self.path):
            # A reader, too, undoes what a killed writer has begun, where it may; "rw" makes no file
            # and reads one that is write-protected.
            self._db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                WAIT_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
            )
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            check_tables(self._db, self.path)
            if not writing:
                self._db.execute("PRAGMA query_only = ON")
            else:
                self._db.execute("PRAGMA synchronous = EXTRA")
                self._db.execute("PRAGMA fullfsync = ON")

    def close(self) -> None:
        self._db.close()

    @property
    def stamp(self) -> int:
        """A number that is another one after another program has written; it costs little."""
        with sqlite_errors(self.path):
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def head(self) -> Head:
        """Reads what the index says of the whole pool."""
        with sqlite_errors(self.path):
            return read_head(self._db, self.path)

    def read(self, since: int = -1) -> Changes:
        """Reads what has changed since a generation, all of one moment.

        A row that is damaged is left out, and named.

        Raises:
            FormatError: The index is damaged.
        """
        with sqlite_errors(self.path):
            inside = self._db.in_transaction
            if not inside:
                self._db.execute("BEGIN")
            try:
                head = read_head(self._db, self.path)
                rows = self._rows(since)
                names = [] if since < 0 else self._removed(since)
            finally:
                if not inside:
                    self._db.execute("COMMIT")
        entries = [entry_of(head, row) for row in rows]
        damaged = [str(row[0]) for row, each in zip(rows, entries, strict=True) if each is None]
        return Changes(head, [each for each in entries if each is not None], names, damaged)

    @contextlib.contextmanager
    def change(self) -> Iterator[Head]:
        """Locks the pool for a change, which is made whole at the end of the block or not at all.

        Raises:
            KronqError: Another program goes on writing.
        """
        with sqlite_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
        try:
            with sqlite_errors(self.path):
                head = read_head(self._db, self.path)
            yield head
            with sqlite_errors(self.path):
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def check_pages(self) -> None:
        """Reads all of the index.

        Raises:
            FormatError: It is damaged.
        """
        with sqlite_errors(self.path):
            (found,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise FormatError(
                "the index is damaged", path=self.path, found=str(found)[:200], code="checksum"
            )

    def has(self, name: str) -> bool:
        """Returns whether there is an adapter of a name."""
        return self.digest_of(name) is not None

    def digest_of(self, name: str) -> str | None:
        """Returns the digest of an adapter's record; None if there is no such adapter."""
        with sqlite_errors(self.path):
            query = "SELECT digest FROM adapters WHERE name = ?"
            row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, head: Head, entries: Iterable[Entry]) -> None:
        """Writes adapters, inside of ``change``, and the pool's new head."""
        rows = [(*row_of(entry), entry.seal(head.id)) for entry in entries]
        marks = ", ".join("?" * (len(fields(Entry)) + 1))
        with sqlite_errors(self.path):
            self._db.executemany(f"INSERT OR REPLACE INTO adapters VALUES ({marks})", rows)  # noqa: S608
            self._db.executemany("DELETE FROM removed WHERE name = ?", [row[:1] for row in rows])
            self._put_head(head)

    def remove(self, head: Head, names: Iterable[str]) -> None:
        """Removes adapters, inside of ``change``; ``head`` has the generation of that."""
        gone = [(name,) for name in names]
        with sqlite_errors(self.path):
            self._db.executemany("DELETE FROM adapters WHERE name = ?", gone)
            rows = [(*name, head.generation) for name in gone]
            self._db.executemany("INSERT OR REPLACE INTO removed VALUES (?, ?)", rows)
            self._put_head(head)

    def replace_all(self, head: Head, entries: Iterable[Entry]) -> None:
        """Writes all adapters anew, inside of ``change``: they lie in another file now."""
        with sqlite_errors(self.path):
            self._db.execute("DELETE FROM adapters")
            self._db.execute("DELETE FROM removed")
        self.put(head, entries)

    def _put_head(self, head: Head) -> None:
        row = (head.file, head.end, head.generation)
        self._db.execute("UPDATE pool SET file = ?, end = ?, generation = ?", row)

    def _rows(self, since: int) -> list[tuple[Any, ...]]:
        query = f"SELECT {COLUMNS}, seal FROM adapters WHERE generation > ? LIMIT ?"  # noqa: S608
        limit = limits.POOL.value
        rows = self._db.execute(query, (since, limit + 1)).fetchall()
        limits.POOL.check(len(rows), self.path)
        return rows

    def _removed(self, since: int) -> list[str]:
        rows = self._db.execute("SELECT name FROM removed WHERE generation > ?", (since,))
        return [typed(row[0], str, self.path) for row in rows]
