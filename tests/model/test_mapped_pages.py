"""Pages of mapped files, given back after they were read."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from kronq.io.safetensors_file import open_tensors
from kronq.model.mapped_pages import is_mapped, release_pages
from kronq.model.matrix import Float

SIZE = 16 * 2**20


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    text = Path("/proc/self/smaps").read_text()
    total, inside = 0, False
    for line in text.splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is resident")
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_an_adapter_that_was_read_is_not_held(tmp_path: Path, dtype):
    path = tmp_path / "whole.safetensors"
    rows = SIZE // 1024 // np.dtype(dtype).itemsize
    values = np.random.default_rng(0).normal(size=(rows, 1024)).astype(dtype)
    save_file({"a": np.ones((3, 5), np.int8), "values": values}, path)
    mapped = open_tensors(path).array("values")
    matrix = Float(mapped)
    assert matrix.is_finite
    found = matrix.float32()
    assert resident(path) < SIZE / 8
    assert np.array_equal(found, values.astype(np.float32))
    assert np.array_equal(np.asarray(mapped), values)


def test_only_what_is_mapped_and_only_read_is_let_go(tmp_path: Path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * 1024)
    with path.open("r+b") as file:
        written = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
    written[5] = 77
    assert not is_mapped(written)
    release_pages(written)
    assert written[5] == 77
    assert not is_mapped(np.zeros(2**20))
    assert not is_mapped(np.memmap(path, np.uint8, "r")[:100])
    part = np.memmap(path, np.uint8, "r").view(np.ndarray)[5000:200000]
    assert is_mapped(part)
    release_pages(part)
    assert part[0] == 5000 % 256
