"""The index of a pool: a SQLite database that says which record is whose.

Its one lock, SQLite's own, lets one program write at a time while others read. A change is on the
disk before it is seen, and is seen whole. Nothing that a file of an index says is believed: the
tables have to be kronq's own, and each row has a digest.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from kronq import limits
from kronq.errors import (
    DiskFullError,
    FormatError,
    KronqError,
    NotFoundError,
    UnsupportedError,
)
from kronq.pool.entry import Entry

INDEX = "index.sqlite"
"""Name of the index in the pool's folder."""
VERSION = 1
"""Version of the index and of the records."""
WAIT_SECONDS = 60.0
"""How long a program waits for another that writes."""

_COLUMNS = ", ".join(each.name for each in fields(Entry))
_TABLES = (
    "CREATE TABLE pool (version INTEGER, id TEXT, file TEXT, end INTEGER, generation INTEGER)",
    "CREATE TABLE adapters (name TEXT PRIMARY KEY, generation INTEGER, offset INTEGER, "
    "size INTEGER, tag TEXT, digest TEXT, source TEXT, base TEXT, fingerprint TEXT, "
    "method TEXT, bits REAL, error REAL, parameters INTEGER, layers INTEGER, added TEXT, "
    "seal TEXT)",
    "CREATE TABLE removed (name TEXT PRIMARY KEY, generation INTEGER)",
    "CREATE INDEX adapter_generations ON adapters (generation)",
    "CREATE INDEX removed_generations ON removed (generation)",
)
_RECORDS = re.compile(r"records-[0-9]{1,9}")
_LARGEST = 2**62


@dataclass(frozen=True)
class Head:
    """What an index says of the whole pool.

    Attributes:
        id: Random digits that tell one pool from others.
        file: Name of the file of records.
        end: Bytes of that file that are in use; the next record begins there.
        generation: Number of the last change.
    """

    id: str
    file: str
    end: int
    generation: int


@dataclass(frozen=True)
class Changes:
    """What has changed since a generation.

    Attributes:
        head: The pool's head now.
        entries: Adapters that were added or replaced, with their offsets in the file.
        removed: Names that are gone.
        damaged: Names of rows that are not what was written.
    """

    head: Head
    entries: list[Entry]
    removed: list[str]
    damaged: list[str]


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
        with self._errors():
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
            self._check_tables()
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
        with self._errors():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def head(self) -> Head:
        """Reads what the index says of the whole pool."""
        with self._errors():
            return self._head()

    def read(self, since: int = -1) -> Changes:
        """Reads what has changed since a generation, all of one moment.

        A row that is damaged is left out, and named.

        Raises:
            FormatError: The index is damaged.
        """
        with self._errors():
            inside = self._db.in_transaction
            if not inside:
                self._db.execute("BEGIN")
            try:
                head = self._head()
                rows = self._rows(since)
                names = [] if since < 0 else self._removed(since)
            finally:
                if not inside:
                    self._db.execute("COMMIT")
        entries = [self._entry(head, row) for row in rows]
        damaged = [str(row[0]) for row, each in zip(rows, entries, strict=True) if each is None]
        return Changes(head, [each for each in entries if each is not None], names, damaged)

    @contextlib.contextmanager
    def change(self) -> Iterator[Head]:
        """Locks the pool for a change, which is made whole at the end of the block or not at all.

        Raises:
            KronqError: Another program goes on writing.
        """
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
        try:
            with self._errors():
                head = self._head()
            yield head
            with self._errors():
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def check_pages(self) -> None:
        """Reads all of the index.

        Raises:
            FormatError: It is damaged.
        """
        with self._errors():
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
        with self._errors():
            query = "SELECT digest FROM adapters WHERE name = ?"
            row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, head: Head, entries: Iterable[Entry]) -> None:
        """Writes adapters, inside of ``change``, and the pool's new head."""
        rows = [(*_row(entry), entry.seal(head.id)) for entry in entries]
        marks = ", ".join("?" * (len(fields(Entry)) + 1))
        with self._errors():
            self._db.executemany(f"INSERT OR REPLACE INTO adapters VALUES ({marks})", rows)  # noqa: S608
            self._db.executemany("DELETE FROM removed WHERE name = ?", [row[:1] for row in rows])
            self._put_head(head)

    def remove(self, head: Head, names: Iterable[str]) -> None:
        """Removes adapters, inside of ``change``; ``head`` has the generation of that."""
        gone = [(name,) for name in names]
        with self._errors():
            self._db.executemany("DELETE FROM adapters WHERE name = ?", gone)
            rows = [(*name, head.generation) for name in gone]
            self._db.executemany("INSERT OR REPLACE INTO removed VALUES (?, ?)", rows)
            self._put_head(head)

    def replace_all(self, head: Head, entries: Iterable[Entry]) -> None:
        """Writes all adapters anew, inside of ``change``: they lie in another file now."""
        with self._errors():
            self._db.execute("DELETE FROM adapters")
            self._db.execute("DELETE FROM removed")
        self.put(head, entries)

    def _put_head(self, head: Head) -> None:
        row = (head.file, head.end, head.generation)
        self._db.execute("UPDATE pool SET file = ?, end = ?, generation = ?", row)

    def _check_tables(self) -> None:
        found = {row[0] for row in self._db.execute("SELECT sql FROM sqlite_master") if row[0]}
        if found != set(_TABLES):
            raise FormatError("not the index of a pool", path=self.path)
        version = self._db.execute("SELECT version FROM pool").fetchone()
        if version is None or version[0] != VERSION:
            raise UnsupportedError(
                "a pool of another version of kronq",
                path=self.path,
                found=None if version is None else version[0],
                expected=VERSION,
                code="version",
            )

    def _head(self) -> Head:
        rows = self._db.execute("SELECT id, file, end, generation FROM pool LIMIT 2").fetchall()
        if len(rows) != 1:
            raise FormatError(
                "the index is damaged", path=self.path, found=f"{len(rows)} heads", code="checksum"
            )
        identity, file, end, generation = rows[0]
        head = Head(
            _typed(identity, str), _typed(file, str), _typed(end, int), _typed(generation, int)
        )
        if not _RECORDS.fullmatch(head.file) or not 0 <= head.end < _LARGEST:
            raise FormatError(
                "the index is damaged", path=self.path, found=f"{head.file!r}", code="checksum"
            )
        return head

    def _rows(self, since: int) -> list[tuple[Any, ...]]:
        query = f"SELECT {_COLUMNS}, seal FROM adapters WHERE generation > ? LIMIT ?"  # noqa: S608
        limit = limits.POOL.value
        rows = self._db.execute(query, (since, limit + 1)).fetchall()
        limits.POOL.check(len(rows), self.path)
        return rows

    def _removed(self, since: int) -> list[str]:
        rows = self._db.execute("SELECT name FROM removed WHERE generation > ?", (since,))
        return [_typed(row[0], str) for row in rows]

    def _entry(self, head: Head, row: tuple[Any, ...]) -> Entry | None:
        """Returns the entry of a row; None where the row is not what was written."""
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            *values, seal = row
            values[4] = int(values[4], 16)
            entry = Entry(*values)
            if seal == entry.seal(head.id) and 0 <= entry.offset <= head.end - entry.size:
                return entry
        return None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Makes one line of SQLite's errors."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "")
            if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise KronqError(
                    "another program is writing this pool",
                    path=self.path.parent,
                    found=f"no turn in {WAIT_SECONDS:.0f} s",
                ) from error
            if code == "SQLITE_READONLY_ROLLBACK":
                raise KronqError(
                    "a program was killed while it wrote this pool",
                    path=self.path.parent,
                    found="no right to undo what it had begun",
                    hint="'kronq pool ls' does it, where the folder may be written",
                ) from error
            if code.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
                raise KronqError(
                    "no right to write this pool", path=self.path.parent, code="no-right"
                ) from error
            if code.startswith("SQLITE_FULL"):
                raise DiskFullError("no room for the pool's index", path=self.path) from error
            if code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
                raise KronqError(f"the index: {error}", path=self.path) from error
            raise FormatError(
                f"the index is damaged: {error}", path=self.path, code="checksum"
            ) from error
        except UnicodeDecodeError as error:  # of a message of SQLite's, with a name of the file
            raise FormatError("the index is damaged", path=self.path, code="checksum") from error


def write_index(path: Path, file: str) -> None:
    """Writes the index of a pool without adapters.

    Args:
        path: A new or empty file.
        file: Name of its file of records.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = MEMORY")  # no file beside it that would be left
        database.execute("BEGIN")
        for table in _TABLES:
            database.execute(table)
        head = (VERSION, secrets.token_hex(16), file, 0, 0)
        database.execute("INSERT INTO pool VALUES (?, ?, ?, ?, ?)", head)
        database.execute("COMMIT")


def _row(entry: Entry) -> tuple[Any, ...]:
    """Returns an entry as the table has it: SQLite's integers have no room for a tag."""
    row = list(astuple(entry))
    row[4] = f"{entry.tag:016x}"
    return tuple(row)


def _typed(value: object, kind: type) -> Any:
    if type(value) is not kind:
        raise FormatError(
            "the index is damaged", found=repr(value)[:80], expected=kind.__name__, code="checksum"
        )
    return value
