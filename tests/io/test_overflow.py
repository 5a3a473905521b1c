"""Adapters whose codes do not stay in memory: the same bytes, and one line where a disk is full."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kronq
from kronq.errors import DiskFullError
from kronq.io import overflow
from kronq.io.overflow import Held, Overflow
from tests import adapters


def files(folder: Path) -> dict[str, bytes]:
    """What is made of one adapter: packed files, and a LoRA of a smaller rank."""
    adapter, found = adapters.adapter(layers=3), {}
    for bits in (3, 4, 8):
        found[f"native {bits}"] = kronq.pack(kronq.quantize(adapter, bits=bits))
        found[f"rtn {bits}"] = kronq.pack(kronq.quantize(adapter, kronq.Uniform(bits=bits)))
    found["fp16"] = kronq.pack(kronq.quantize(adapter, kronq.Float16()))
    kronq.convert(adapter, folder / "r2", to="lora", rank=2, force=True)
    found["r2"] = (folder / "r2/adapter_model.safetensors").read_bytes()
    return found


def test_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    hold = Overflow.hold
    monkeypatch.setattr(Overflow, "hold", lambda *a: held.append(hold(*a)) or held[-1])
    expected = files(tmp_path)
    assert not any(isinstance(each, Held) for each in held)
    monkeypatch.setattr(overflow, "KEPT", 500)
    assert files(tmp_path) == expected
    assert sum(isinstance(each, Held) for each in held) > 20


def test_it_reads_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overflow, "KEPT", 0)
    some = Overflow()
    arrays: list[Any] = [np.arange(12, dtype="i1").reshape(3, 4), np.ones((2, 5), "f4")]
    for array, held in [(array, some.hold(array)) for array in arrays]:
        assert (held.shape, held.size) == (array.shape, array.size)
        np.testing.assert_array_equal(np.asarray(held), array, strict=True)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(held)), array)  # noqa: S301


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, place: int) -> None: ...

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(overflow, "KEPT", 0)
    monkeypatch.setattr(overflow.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(DiskFullError, match="no room for what is made of a large adapter"):
        kronq.quantize(adapters.adapter(), bits=4)
