"""The tables of a pool's index: their columns, their head, and an adapter's row in them.

Nothing that a file of an index says is believed: the tables have to be kronq's own, and each row
has a digest.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, UnsupportedError
from kronq.pool.entry import Entry

VERSION = 1
"""Version of the index and of the records."""
COLUMNS = ", ".join(each.name for each in fields(Entry))
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


def check_tables(database: sqlite3.Connection, path: Path) -> None:
    """Refuses a database whose tables are not those of a pool.

    Raises:
        FormatError: They are not.
        UnsupportedError: They are those of another version.
    """
    found = {row[0] for row in database.execute("SELECT sql FROM sqlite_master") if row[0]}
    if found != set(_TABLES):
        raise FormatError("not the index of a pool", path=path)
    version = database.execute("SELECT version FROM pool").fetchone()
    if version is None or version[0] != VERSION:
        raise UnsupportedError(
            "a pool of another version of kronq",
            path=path,
            found=None if version is None else version[0],
            expected=VERSION,
            code="version",
        )


def read_head(database: sqlite3.Connection, path: Path) -> Head:
    """Reads what the index says of the whole pool.

    Raises:
        FormatError: It says what no pool is.
    """
    rows = database.execute("SELECT id, file, end, generation FROM pool LIMIT 2").fetchall()
    if len(rows) != 1:
        raise FormatError(
            "the index is damaged", path=path, found=f"{len(rows)} heads", code="checksum"
        )
    kinds = (str, str, int, int)
    head = Head(*(typed(value, kind, path) for value, kind in zip(rows[0], kinds, strict=True)))
    if not _RECORDS.fullmatch(head.file) or not 0 <= head.end < _LARGEST:
        raise FormatError(
            "the index is damaged", path=path, found=f"{head.file!r}", code="checksum"
        )
    return head


def row_of(entry: Entry) -> tuple[Any, ...]:
    """Returns an entry as the table has it: SQLite's integers have no room for a tag."""
    row = list(astuple(entry))
    row[4] = f"{entry.tag:016x}"
    return tuple(row)


def entry_of(head: Head, row: tuple[Any, ...]) -> Entry | None:
    """Returns the entry of a row; None where the row is not what was written."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        *values, seal = row
        values[4] = int(values[4], 16)
        entry = Entry(*values)
        if seal == entry.seal(head.id) and 0 <= entry.offset <= head.end - entry.size:
            return entry
    return None


def typed(value: object, kind: type, path: Path) -> Any:
    """Returns a value of a row that has to be of a type.

    Raises:
        FormatError: It is not.
    """
    if type(value) is not kind:
        raise FormatError(
            "the index is damaged",
            path=path,
            found=repr(value)[:80],
            expected=kind.__name__,
            code="checksum",
        )
    return value
