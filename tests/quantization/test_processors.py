"""Codes are the same with the instructions of any processor, and without C."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import replace
from pathlib import Path

import pytest

import kronq
from kronq.compiled.compiler import compile_library
from tests import adapters

compiled = importlib.import_module("kronq.compiled.library")  # the package has a function of it


def packed() -> list[bytes]:
    """Returns files of each method."""
    adapter = adapters.adapter(layers=4)
    configs = kronq.Uniform(4, "rtn"), kronq.Uniform(3), kronq.Native(bits=4), kronq.Compact(bpw=6)
    return [kronq.pack(kronq.quantize(adapter, each)) for each in configs]


@pytest.mark.parametrize("fewer", ["-DKRONQ_AVX2", "-DKRONQ_PLAIN"])
@pytest.mark.skipif(compiled.library() is None, reason="needs a C compiler")
def test_any_instructions_give_the_same_files(
    tmp_path: Path, fewer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_newest = packed()
    flags = (*compiled.PROGRAM.flags, fewer)
    file = tmp_path / "other" / "library.so"
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path))
    compile_library(replace(compiled.PROGRAM, flags=flags), file)
    other = ctypes.CDLL(str(file))
    monkeypatch.setattr(compiled, "_library", lambda: other)
    assert packed() == by_newest
    monkeypatch.setenv(compiled.SWITCH, "0")
    assert packed() == by_newest
