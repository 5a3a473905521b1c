"""GGUF files, opened with the ``gguf`` package (extra ``base``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kronq.errors import StrPath
from kronq.io.gguf_types import check_types

MAGIC = b"GGUF"


def is_gguf(path: StrPath) -> bool:
    """Returns whether the file starts with the bytes of every GGUF file."""
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def open_gguf(path: Path) -> Any:
    """Opens a file as ``gguf.GGUFReader``, whose tensors stay memory-mapped.

    Raises:
        UnsupportedError: A tensor is of a type that gguf cannot read; its own error names none.
    """
    from gguf import GGUFReader

    class Reader(GGUFReader):
        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            check_types({field.name: int(field.parts[4][0]) for field in fields}, path)
            super()._build_tensors(start_offs, fields)

    return Reader(path)
