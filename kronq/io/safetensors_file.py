"""Safetensors files as memory-mapped numpy arrays, without torch.

The safetensors library checks the header (length, offsets, overlaps, sizes); this module adds
kronq's limits and the byte offsets, which ONNX external data needs. No payload is read before an
array's values are used.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from kronq import limits
from kronq.errors import FormatError, KronqError, NotFoundError, StrPath
from kronq.io.json_file import refuse_repeated_names
from kronq.io.mapped_file import MappedFile, map_file
from kronq.io.tensors import NUMBERS, Entry, Tensors

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


_OTHER_KINDS = {
    b"version ": (
        "a pointer of Git LFS, not the file it stands for",
        "'git lfs pull' in its repository, or 'hf download OWNER/NAME', gets the file",
    ),
    b"GGUF": (
        "a GGUF file, which holds a base, or an adapter of llama.cpp",
        "'kronq base' makes a base of it; an adapter is read as its trainer wrote it",
    ),
    b"\x14\0\0\0TORT": (
        "an .onnx_adapter, expanded for one model",
        "give what it was made from; it only runs, with that model",
    ),
    b"PK\x03\x04": ("a zip file, or weights of torch", "unpack it, or save as safetensors"),
    b"<!DOCTY": ("a web page", "download the file itself, not the page about it"),
    b"<!docty": ("a web page", "download the file itself, not the page about it"),
    b"<html": ("a web page", "download the file itself, not the page about it"),
}
"""First bytes of files that are no safetensors → what they are, and what to do."""


@dataclass(frozen=True)
class TensorFile(Tensors):
    """An open safetensors file, whose arrays are read-only memory maps."""

    path: Path

    def _array(self, name: str) -> NDArray[Any]:
        entry = self.entries[name]
        dtype = NUMBERS[entry.dtype]
        if entry.nbytes == 0:
            return np.empty(entry.shape, dtype=dtype)
        raw = self.mapped.data[entry.offset : entry.offset + entry.nbytes]
        return raw.view(dtype).reshape(entry.shape)

    @cached_property
    def mapped(self) -> MappedFile:
        """The whole file; whoever holds a part of it holds the map."""
        return map_file(self.path)


_kept: ContextVar[dict[Path, TensorFile] | None] = ContextVar("_kept", default=None)
"""Files that are open in the block of ``keep_open``."""


@contextlib.contextmanager
def keep_open() -> Iterator[None]:
    """Parses the header of each file once inside the block: readers detect, and then read."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def open_tensors(path: StrPath) -> TensorFile:
    """Opens and checks a safetensors file.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is a pickle, truncated, damaged or beyond kronq's limits.
    """
    file, kept = Path(path), _kept.get()
    if kept is not None and file in kept:
        return kept[file]
    opened = _open(file)
    if kept is not None:
        kept[file] = opened
    return opened


def _open(path: Path) -> TensorFile:
    size, header = _read_header(path)
    try:
        with safe_open(path, framework="np") as checked:
            names = list(checked.keys())
            limits.TENSORS.check(len(names), path)
            metadata = dict(checked.metadata() or {})
        described = json.loads(header, object_pairs_hook=refuse_repeated_names)
    except KronqError:
        raise
    except (SafetensorError, ValueError, RecursionError) as error:
        raise FormatError(
            f"not a whole safetensors file: {error}",
            path=path,
            found=f"{size:,} bytes",
            hint="was the download or the copy complete?",
            code="truncated",
        ) from None
    entries = {}
    for name in names:
        start, stop = described[name]["data_offsets"]
        shape = tuple(described[name]["shape"])
        offset = 8 + len(header) + start
        entries[name] = Entry(described[name]["dtype"], shape, offset, stop - start)
    opened = TensorFile(path, size, metadata, entries)
    front = opened.mapped.data[: 8 + len(header)].tobytes()
    if len(opened.mapped.data) != size or front[8:] != header:
        raise FormatError(
            "another file was put in its place while it was read",
            path=path,
            hint="read it again",
            code="truncated",
        )
    return opened


def _unpickle_hint(path: Path) -> str:
    """Returns a command that makes safetensors of a pickle: old PEFT can write nothing else."""
    code = (
        "import torch, safetensors.torch as s; "
        f"t = torch.load({path.name!r}, map_location='cpu', weights_only=True); "
        f"s.save_file({{k: v.clone().contiguous() for k, v in t.items()}}, "
        f"{path.with_suffix('.safetensors').name!r})"
    )
    return f'in its folder: python -c "{code}"; PEFT since 0.4 has safe_serialization=True'


def _refuse_other_kinds(path: Path, beginning: bytes) -> None:
    """Refuses files that are given by mistake, by what they are.

    Raises:
        FormatError: It is one of them.
    """
    kinds = [kind for start, kind in _OTHER_KINDS.items() if beginning.startswith(start)]
    if path.suffix == ".onnx":
        kinds = [("an ONNX model, not an adapter", "{base} takes a base model")]
    for kind, hint in kinds:
        raise FormatError(
            kind, path=path, expected="a safetensors file, or the folder of one", hint=hint
        )


def _read_header(path: Path) -> tuple[int, bytes]:
    """Returns the file's size and its header's JSON."""
    if not path.is_file():
        raise NotFoundError("no such file", path=path)
    if path.suffix in PICKLES:
        raise FormatError(
            "a pickle can run code when it is read and is never opened",
            path=path,
            expected="a .safetensors file",
            hint=_unpickle_hint(path),
            code="pickle",
        )
    size = path.stat().st_size
    try:
        stream = path.open("rb")
    except OSError as error:
        raise FormatError(f"the file cannot be opened: {error.strerror}", path=path) from None
    with stream:
        beginning = stream.read(8)
        _refuse_other_kinds(path, beginning)
        length = int.from_bytes(beginning, "little")
        if size < 8 or length > size - 8:
            is_json = beginning.lstrip().startswith((b"{", b"["))
            raise FormatError(
                "JSON" if is_json else "not a safetensors file, or a truncated one",
                path=path,
                expected="a safetensors file, or the folder of one" if is_json else None,
                found=None if is_json else f"a header of {length:,} bytes in a file of {size:,}",
                hint=None if is_json else "was the download or the copy complete?",
                code="truncated",
            )
        limits.HEADER.check(length, path)
        return size, stream.read(length)
