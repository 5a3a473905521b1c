"""Folders of pipelines from strangers: damaged indexes, links that leave them, odd names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import kronq
from kronq.errors import FormatError, UnsupportedError
from tests.onnx import tiny_onnx as tiny

INDEX = '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet"]}'
BAD: dict[str, bytes] = {
    "empty": b"",
    "cut": INDEX[:20].encode(),
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b"\xff\xfe{",
    "deep": b'{"unet": ' + b"[" * 100_000,
    "another folder": b'{"../x": ["a", "b"]}',
    "an absolute path": b'{"/etc": ["a", "b"]}',
    "a null byte": rb'{"unet\u0000": ["a", "b"]}',
    "escapes": rb'{"\u001b[31m/": 1}',
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshots" / "base"
    (folder / "unet").mkdir(parents=True)
    tiny.build(folder / "unet" / "model.onnx")
    (folder / "model_index.json").write_text(INDEX)
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", BAD)
def test_an_index(base: Path, tmp_path: Path, name: str) -> None:
    (base / "model_index.json").write_bytes(BAD[name])
    with pytest.raises(FormatError) as error:
        kronq.export_pipeline(tiny.adapter(), base, tmp_path / "out", verify=False)
    assert str(base / "model_index.json") in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1500
    assert not (tmp_path / "out").exists()


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "a file outside": lambda base, out: (base / "x.json").symlink_to(out / "secret.txt"),
    "a folder outside": lambda base, out: (base / "text").symlink_to(out),
    "a folder inside": lambda base, _out: (base / "text").symlink_to(base / "vae"),
    "itself": lambda base, _out: (base / "vae" / "around").symlink_to(base),
    "nothing": lambda base, out: (base / "x.json").symlink_to(out / "nothing"),
    "a file above": lambda base, _out: (base / "x.json").symlink_to("../../secret.txt"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_that_leave_it(base: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for folder in (outside, tmp_path):
        (folder / "secret.txt").write_text("secret")
    LINKS[name](base, outside)
    with pytest.raises(UnsupportedError, match="leads to another"):
        kronq.export_pipeline(tiny.adapter(), base, tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()


def test_links_within_it_and_those_of_the_hubs_cache_are_followed(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a").write_text("blob")
    (base / "vae" / "x.json").symlink_to("../../../blobs/0a")
    (base / "vae" / "y.json").symlink_to("config.json")
    out = tmp_path / "out"
    kronq.export_pipeline(tiny.adapter(), base, out, verify=False)
    assert (out / "vae" / "x.json").read_text() == "blob"
    assert (out / "vae" / "y.json").read_text() == "{}"
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_marks_of_kronq_are_not_copied(base: Path, tmp_path: Path) -> None:
    (base / ".kronq").mkdir()
    (base / ".kronq" / "x").write_text("y")
    (base / "vae" / ".kronq").write_text("z")
    report = kronq.export_pipeline(tiny.adapter(), base, tmp_path / "out", verify=False)
    assert (tmp_path / "out" / ".kronq").is_file()
    assert "vae/.kronq" not in report.files
