"""Outputs are complete or absent, and ``force`` deletes nothing but outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronq.errors import KronqError, OutputExistsError
from kronq.io.files import new_folder, write_file


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"one")
    with pytest.raises(OutputExistsError, match="hint: force overwrites"):
        write_file(path, b"two")
    assert path.read_bytes() == b"one"
    write_file(path, b"two", force=True)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), new_folder(out) as work:
        (work / "model.onnx").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with new_folder(out) as work:
        (work / "model.onnx").write_text("whole")
        assert not out.exists()
    assert (out / "model.onnx").read_text() == "whole"


@pytest.mark.parametrize("things", [["notes.txt"], ["model.onnx", "photos/cat.png"]])
def test_force_does_not_delete_a_folder_that_kronq_did_not_write(
    tmp_path: Path, things: list[str]
) -> None:
    out = tmp_path / "out"
    for name in things:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    with pytest.raises(OutputExistsError, match="kronq did not write"), new_folder(out, force=True):
        pass
    assert all((out / name).read_text() == "mine" for name in things)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KronqError, match="not a folder"):
        write_file(tmp_path / "file" / "a.txt", b"")
