"""What SQLite says of an index, in one line."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from kronq.errors import DiskFullError, FormatError, KronqError

WAIT_SECONDS = 60.0
"""How long a program waits for another that writes."""


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Makes one line of SQLite's errors.

    Args:
        path: The index.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise KronqError(
                "another program is writing this pool",
                path=path.parent,
                found=f"no turn in {WAIT_SECONDS:.0f} s",
            ) from error
        if code == "SQLITE_READONLY_ROLLBACK":
            raise KronqError(
                "a program was killed while it wrote this pool",
                path=path.parent,
                found="no right to undo what it had begun",
                hint="'kronq pool ls' does it, where the folder may be written",
            ) from error
        if code.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
            raise KronqError(
                "no right to write this pool", path=path.parent, code="no-right"
            ) from error
        if code.startswith("SQLITE_FULL"):
            raise DiskFullError("no room for the pool's index", path=path) from error
        if code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
            raise KronqError(f"the index: {error}", path=path) from error
        raise FormatError(f"the index is damaged: {error}", path=path, code="checksum") from error
    except UnicodeDecodeError as error:  # of a message of SQLite's, with a name of the file
        raise FormatError("the index is damaged", path=path, code="checksum") from error
