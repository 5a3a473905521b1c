"""Detecting a format and reading it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq
from kronq.io import safetensors_file


def write(path: Path, rank: int) -> None:
    up, down = np.ones((8, rank), np.float32), np.ones((rank, 8), np.float32)
    layer = "lora_unet_down_blocks_0_attentions_0_proj_in"
    save_file({f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}, path)


def test_a_header_is_parsed_once_by_all_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "a.safetensors", rank=2)
    parsed: list[Path] = []

    def read_header(path: Path) -> tuple[int, bytes]:
        parsed.append(path)
        return original(path)

    original = safetensors_file._read_header
    monkeypatch.setattr(safetensors_file, "_read_header", read_header)
    kronq.load(tmp_path / "a.safetensors")
    assert len(parsed) == 1


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    for rank in (2, 3):
        write(path, rank)
        (delta,) = kronq.load(path).values()
        assert delta.rank == rank
