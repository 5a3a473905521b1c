"""GGUF files, opened with the ``gguf`` package (extra ``base``), whose reader believes them."""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import Any

from kronq import limits
from kronq.errors import FormatError, KronqError, StrPath, UnsupportedError
from kronq.io.gguf_tensors import check_tensors

MAGIC = b"GGUF"
_LONGEST = 200
"""Characters of the gguf package's message that are kept."""


def is_gguf(path: StrPath) -> bool:
    """Returns whether the file starts with the bytes of every GGUF file."""
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def open_gguf(path: Path) -> Any:
    """Opens a file as ``gguf.GGUFReader``, whose tensors stay memory-mapped.

    Nothing is read beyond the file's end, where the package goes on and on; arrays of strings, such
    as the tokenizer's, are passed over, and those of numbers are one piece each.

    Raises:
        FormatError: The file is damaged.
        UnsupportedError: It is of another version, or a tensor is of a type that the package cannot
            read; its own error names none.
    """
    _check_version(path)
    try:
        return _reader_class()(path)
    except KronqError as error:
        error.path = path
        error.args = (str(error),)
        raise
    except Exception as error:  # gguf raises whatever it hits first
        raise _unreadable(path, error) from error


def read_values(reader: Any, path: Path) -> dict[str, Any]:
    """Returns the settings of a file that ``open_gguf`` opened: name → number, text or list.

    Raises:
        FormatError: A text is not UTF-8.
    """
    try:
        return {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FormatError:
    found = repr(error)[:_LONGEST]
    return FormatError("unreadable GGUF file", path=path, found=found, code="truncated")


def _check_version(path: Path) -> None:
    from gguf.gguf_reader import READER_SUPPORTED_VERSIONS as SUPPORTED

    with path.open("rb") as stream:
        bytes_ = stream.read(8)[4:]
    if len(bytes_) < 4:
        raise FormatError("the file is cut", path=path, found="no version", code="truncated")
    # A file of the other byte order has its version in the last bytes.
    version = int.from_bytes(bytes_, "little" if any(bytes_[:2]) else "big")
    if version not in SUPPORTED:
        raise UnsupportedError(
            "a GGUF file of a version that the gguf package does not read",
            path=path,
            found=version,
            expected=" or ".join(map(str, SUPPORTED)),
            code="version",
        )


def _reader_class() -> Any:
    import numpy as np
    from gguf import GGUFEndian, GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **kwargs: Any) -> Any:
            offset, count = int(offset), int(count)
            stop = offset + np.dtype(dtype).itemsize * count
            if stop > len(self.data):
                raise FormatError(
                    "the file is cut, or a count or length in it is wrong",
                    found=f"{len(self.data):,} bytes",
                    expected=f"{stop:,}",
                    code="truncated",
                )
            return super()._get(offset, dtype, count, *order, **kwargs)

        def _push_field(self, field: Any, skip_sum: bool = False) -> Any:
            if field.name in self.fields:
                raise FormatError(
                    "a setting that is there twice", found=field.name, code="duplicate"
                )
            return super()._push_field(field, skip_sum)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind = GGUFValueType(self._get(orig_offs, np.uint32)[0])
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            offs = orig_offs + 12
            types = [GGUFValueType.ARRAY, kind]
            if kind == GGUFValueType.STRING:
                limits.TEXTS.check(count, None)
                length = Struct("<Q" if self.endianess == GGUFEndian.LITTLE else ">Q").unpack_from
                data = self.data.data
                for _ in range(count):
                    offs += 8 + length(data, offs)[0]
                return offs - orig_offs, [], [], types
            values = self._get(offs, self.gguf_scalar_to_np[kind], count)
            return offs - orig_offs + values.nbytes, [values], [0], types

        def _build_fields(self, offs: int, count: int) -> Any:
            limits.SETTINGS.check(int(count), None)
            return super()._build_fields(offs, count)

        def _build_tensor_info(self, offs: int, count: int) -> Any:
            limits.TENSORS.check(int(count), None)
            return super()._build_tensor_info(offs, count)

        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            check_tensors(fields, len(self.data) - int(start_offs), int(self.alignment))
            super()._build_tensors(start_offs, fields)

    return Reader
