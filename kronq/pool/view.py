"""What an open pool has seen of the index and of the files of records, at one moment."""

from __future__ import annotations

from pathlib import Path
from warnings import warn

from kronq.errors import FormatError, KronqWarning, listing
from kronq.pool.entry import Entry
from kronq.pool.index import Index
from kronq.pool.mapped_files import MappedFiles
from kronq.pool.tables import Changes

_ATTEMPTS = 20
"""Times that the index is read again because another program has just compacted the pool."""


class PoolView:
    """Entries of a moment, and the mapped files that they lie in; of one thread at a time.

    Args:
        path: The pool's folder.

    Attributes:
        head: What the index said of the whole pool.
        entries: Name → entry, with offsets into ``files``; replaced as a whole when it changes.
        files: The mapped files.
        verified: Tags of records that were compared with their digests.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = Index(path)
        self._stamp = self._index.stamp
        self.head = self._index.head()
        self.files = MappedFiles(path, self.head.end)
        self.entries: dict[str, Entry] = {}
        self.verified: set[int] = set()
        self._load()

    def close(self) -> None:
        """Closes the index and unmaps all files."""
        self._index.close()
        self.files.close()

    def refresh(self) -> None:
        """Sees what programs have changed since.

        Raises:
            FormatError: The index is damaged; entries stay as they were.
        """
        stamp = self._index.stamp
        if stamp != self._stamp and self._load():
            self._stamp = stamp

    def _load(self) -> bool:
        """Reads what has changed, or all, and maps it; returns False where that has to wait."""
        for _ in range(_ATTEMPTS):
            head = self._index.head()
            moved = self.files.name != head.file
            if moved and self.files.is_held:
                return False
            changes = self._index.read(-1 if moved else self.head.generation)
            if changes.head.file != head.file:
                continue
            try:
                if not self.files.map(changes.head):
                    return False
            except FileNotFoundError:
                continue  # compacted between the two
            self._take(changes, anew=moved)
            return True
        raise FormatError(
            "the file of records is missing", path=self.path / head.file, code="truncated"
        )

    def _take(self, changes: Changes, *, anew: bool) -> None:
        """Takes over what the index says; threads that look names up see all of it or nothing."""
        start = self.files.start
        found = {entry.name: entry.at(start) for entry in changes.entries}
        if anew:
            self.verified = set()  # the records were copied to another file
            self.entries = found
        else:
            entries = self.entries | found
            for name in changes.removed:
                entries.pop(name, None)
            kept = {entry.tag for entry in entries.values()}
            self.verified &= kept
            self.entries = entries
        self.head = changes.head
        if changes.damaged:
            warn(
                f"{self.path}: the index is damaged: rows of {len(changes.damaged):,} adapters, "
                f"which are left out: {listing(changes.damaged).short}",
                KronqWarning,
                stacklevel=2,
            )
