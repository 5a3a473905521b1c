"""Hostile packed files, made of a good one, and checks that they are refused."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import kronq
from kronq.errors import KronqError
from kronq.packed import locate, pack_adapter
from tests import adapters

Header = dict[str, Any]

_FRONT = b'{"__metadata__":{"checksum":"'
UNSET = "0" * 22
MAX_BYTES = 4 * 2**20
MAX_SECONDS = 3.0


@cache
def good(bits: int = 4) -> bytes:
    """Returns a packed file of two groups, kron and lora, of three layers each."""
    return pack_adapter(
        kronq.quantize(adapters.adapter(kinds=("kron", "lora")), kronq.Uniform(bits=bits))
    )


def split(data: bytes) -> tuple[Header, bytes]:
    """Splits a safetensors file into header and payload."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: Header | bytes, payload: bytes) -> bytes:
    """Joins a safetensors file; a packed one has the checksum that an attacker would give it."""
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":")).encode()
    return seal(len(header).to_bytes(8, "little") + header + payload)


def seal(data: bytes) -> bytes:
    """Gives a packed file the right checksum, if it has a place for one."""
    if not data.startswith(_FRONT, 8):
        return data
    zeros = data[:37] + b"0" * 22 + data[59:]
    text = base64.urlsafe_b64encode(hashlib.sha256(zeros).digest()[:16])
    return data[:37] + text[:22] + data[59:]


def seal_anew(data: bytes) -> bytes:
    """Seals a changed file; its checksum is put to its place first, if its header still has one."""
    try:
        header, payload = split(data)
        metadata = header["__metadata__"]
        sealed = {"checksum": UNSET} | metadata | {"checksum": UNSET}
        return join({"__metadata__": None} | header | {"__metadata__": sealed}, payload)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return seal(data)  # no longer a header


def with_header(change: Callable[[Header], None], bits: int = 4) -> bytes:
    """Returns the good file with its safetensors header changed."""
    header, payload = split(good(bits))
    change(header)
    return join(header, payload)


def with_manifest(change: Callable[[dict[str, Any]], None], bits: int = 4) -> bytes:
    """Returns the good file with its manifest changed."""
    return change_manifest(good(bits), change)


def change_manifest(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Returns a packed file with its manifest changed."""
    header, payload = split(data)
    manifest = json.loads(header["__metadata__"]["kronq"])
    change(manifest)
    header["__metadata__"]["kronq"] = json.dumps(manifest)
    return join(header, payload)


def with_text(text: str) -> bytes:
    """Returns the good file with another text in place of its manifest."""
    return with_header(lambda header: header["__metadata__"].update(kronq=text))


@contextmanager
def bounded_cost(path: Path | None = None) -> Iterator[None]:
    """Fails if far more memory than the file is allocated, or a few seconds of CPU time pass."""
    size = path.stat().st_size if path is not None and path.is_file() else 0
    tracemalloc.start()
    start = time.process_time()  # other processes on the machine do not count
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES + 20 * min(size, 2**22)
        assert time.process_time() - start < MAX_SECONDS
    finally:
        tracemalloc.stop()


def assert_refused(path: Path, reason: str = "") -> KronqError:
    """Checks that a file is neither read nor mapped, with one line that names it."""
    for reader in (kronq.load, locate):
        with bounded_cost(path), pytest.raises(KronqError) as error:
            reader(path)
        message = str(error.value)
        assert "\n" not in message
        assert str(path) in message
    with pytest.raises(KronqError) as error:
        kronq.load(path)
    assert reason in str(error.value)
    return error.value
