"""Outputs are complete or absent, and ``force`` deletes nothing but outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kronq
from kronq.errors import KronqError, OutputExistsError
from kronq.io.files import MARK, new_file, new_folder, write_file


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
    with pytest.raises(ZeroDivisionError), new_folder(out, "base") as work:
        (work / "model.onnx").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with new_folder(out, "base") as work:
        (work / "model.onnx").write_text("whole")
        assert not out.exists()
    assert (out / "model.onnx").read_text() == "whole"


@pytest.mark.parametrize(
    "things",
    [
        ["notes.txt"],
        ["config.json", "model.safetensors", "tokenizer.json"],
        ["adapter_config.json", "adapter_model.safetensors"],
        ["model.onnx", "genai_config.json"],
        [MARK, "model.onnx"],  # an empty mark is none
    ],
)
def test_force_does_not_delete_a_folder_that_kronq_did_not_write(
    tmp_path: Path, things: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in things:
        (out / name).write_text("mine")
    with (
        pytest.raises(OutputExistsError, match="kronq did not write"),
        new_folder(out, "base", force=True),
    ):
        pass
    assert {file.name: file.read_text() for file in out.iterdir()} == dict.fromkeys(things, "mine")
    assert list(tmp_path.iterdir()) == [out]


def test_force_replaces_what_kronq_wrote_unless_it_has_subfolders(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for text in ("one", "two"):
        with new_folder(out, "base", force=True) as work:
            (work / text).write_text(text)
        assert {file.name for file in out.iterdir()} == {MARK, text}
    mark = json.loads((out / MARK).read_text())
    assert mark == {"kronq": kronq.__version__, "verb": "base"}
    (out / "photos").mkdir()
    with (
        pytest.raises(OutputExistsError, match="no subfolders"),
        new_folder(out, "base", force=True),
    ):
        pass
    assert (out / "photos").is_dir()
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out, "base") as work:
        (work / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), new_folder(out, "base", force=True):
        raise ZeroDivisionError
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(OSError, match="no space"),
        new_folder(out, "base", force=True) as work,
    ):
        patch.setattr("kronq.io.files._exchange", lambda *_: False)
        patch.setattr("kronq.io.files._rename_to_new", lambda *_: raise_(OSError("no space")))
    assert (out / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_is_replaced_where_the_system_knows_no_exchange(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kronq.io.files._exchange", lambda *_: False)
        for text in ("one", "two"):
            with new_folder(out, "base", force=True) as work:
                (work / text).write_text(text)
    assert {file.name for file in out.iterdir()} == {MARK, "two"}
    assert list(tmp_path.iterdir()) == [out]


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path, force: bool) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputExistsError), new_folder(out, "base", force=force):
        out.mkdir()
        (out / "theirs").write_text("theirs")
    assert (out / "theirs").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_of_kronq_that_another_run_replaced_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out, "base"):
        pass
    with (
        pytest.raises(OutputExistsError, match="another"),
        new_folder(out, "base", force=True),
        new_folder(out, "convert", force=True) as work,
    ):
        (work / "theirs").write_text("theirs")
    assert (out / "theirs").read_text() == "theirs"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: raise_(PermissionError("no links")))
    path = tmp_path / "a.txt"
    with pytest.raises(OutputExistsError), new_file(path) as work:
        work.write_text("mine")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    write_file(tmp_path / "b.txt", b"mine")
    assert (tmp_path / "b.txt").stat().st_nlink == 1
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", "b.txt"}


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KronqError, match="not a folder"):
        write_file(tmp_path / "file" / "a.txt", b"")
