"""``kronq pool check``: every record is the one that was added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kronq.errors import FormatError, StrPath
from kronq.io.progress import Progress
from kronq.pool.index import Index
from kronq.pool.pool import Pool
from kronq.pool.record import verify_record, verify_structure


@dataclass(frozen=True)
class Checked:
    """What a check has found.

    Attributes:
        adapters: Adapters that are as they were added.
        bytes: Of their records.
        file_bytes: Of the file of records, with those that ``compact`` frees.
        problems: Name → what is wrong with it.
    """

    adapters: int
    bytes: int
    file_bytes: int
    problems: dict[str, str]


def check(path: StrPath, *, progress: Progress | None = None) -> Checked:
    """Reads all records of a pool and compares them with the index.

    Args:
        path: The pool's folder.
        progress: Called with (records read, records in all).

    Raises:
        FormatError: The index itself is damaged.
    """
    index = Index(Path(path))
    try:
        index.check_pages()
        changes = index.read()
    finally:
        index.close()
    wrong = "the row of the index is damaged"
    problems = dict.fromkeys(changes.damaged, wrong)
    size = 0
    with Pool.open(path) as pool:
        entries = sorted(pool.values(), key=lambda entry: entry.offset)
        for number, entry in enumerate(entries):
            record = pool.bytes[entry.offset : entry.offset + entry.size]
            try:
                verify_record(record, entry.tag, entry.digest, path=path, name=entry.name)
                verify_structure(record, path=path)
                size += entry.size
            except FormatError as error:
                problems[entry.name] = error.message
            if progress is not None:
                progress(number + 1, len(entries))
    good = sum(entry.name not in problems for entry in entries)
    return Checked(good, size, changes.head.end, problems)
