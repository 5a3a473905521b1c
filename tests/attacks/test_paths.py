"""Paths that are not regular files are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.attacks import hostile
from tests.attacks.hostile import assert_refused


def test_nothing(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.safetensors", "no such file")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    assert_refused(tmp_path / "a.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_that_nobody_writes_to(tmp_path: Path) -> None:
    """Opening it would block forever."""
    os.mkfifo(tmp_path / "a.safetensors")
    assert_refused(tmp_path / "a.safetensors")


def test_a_device() -> None:
    assert_refused(Path("/dev/zero"))


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("a.safetensors")
    assert_refused(tmp_path / "a.safetensors")


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("b.safetensors")
    assert_refused(tmp_path / "a.safetensors", "no such file")


def test_a_file_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(hostile.good())
    assert_refused(tmp_path / "a.safetensors" / "b.safetensors", "no such file")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be read here")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(hostile.good())
    path.chmod(0)
    assert_refused(path, "Permission denied")
