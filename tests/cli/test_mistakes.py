"""The likeliest mistakes: each is one short line that says what to do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import kronq as package
from kronq.errors import KronqError, listing
from kronq.io.files import new_file, new_folder
from tests import adapters
from tests.cli.command import Kronq
from tests.onnx import tiny_onnx

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1305288\n"


def change_config(folder: Path, **settings: object) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("beginning", "told"),
    [
        (POINTER, ("a pointer of Git LFS", "hf download")),
        (b"GGUF\3\0\0\0", ("a GGUF file", "'kronq base'")),
        (b"\x14\0\0\0TORT" + bytes(20), ("an .onnx_adapter", "what it was made from")),
        (b"PK\3\4" + bytes(20), ("a zip file", "safetensors")),
        (b"<!DOCTYPE html><html></html>", ("a web page", "the file itself")),
        (b' {"prompt": "a", "answer": "b"}', ("JSON", "a safetensors file")),
    ],
)
@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.gguf", "adapter.onnx_adapter"])
def test_a_file_that_is_no_adapter(
    kronq: Kronq, tmp_path: Path, beginning: bytes, told: tuple[str, ...], name: str
) -> None:
    file = tmp_path / name
    file.write_bytes(beginning)
    line = kronq.refuses("inspect", file)
    assert all(part in line for part in (str(file), *told))


def test_a_base_given_as_an_adapter(kronq: Kronq, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\x12\x05model")
    line = kronq.refuses("inspect", tmp_path / "model.onnx")
    assert "an ONNX model, not an adapter" in line


def test_a_pointer_of_git_lfs_in_a_folder(kronq: Kronq, trained: Path) -> None:
    (trained / "adapter_model.safetensors").write_bytes(POINTER)
    assert "a pointer of Git LFS" in kronq.refuses("inspect", trained)


@pytest.mark.parametrize(
    "settings",
    [{"layer_replication": [[0, 1]]}, {"alora_invocation_tokens": [1]}, {"lora_bias": True}],
)
def test_kinds_of_adapters_that_are_not_read_say_the_way_out(
    kronq: Kronq, trained: Path, settings: dict[str, object]
) -> None:
    line = kronq.refuses("inspect", change_config(trained, **settings))
    assert f"found {next(iter(settings))}" in line
    assert "merge_and_unload" in line


@pytest.mark.parametrize(
    ("verb", "meant"),
    [("quantise", "quantize"), ("Quantize", "quantize"), ("inspct", "inspect"), ("chta", "chat")],
)
def test_a_mistyped_verb(kronq: Kronq, verb: str, meant: str) -> None:
    line = kronq.refuses(verb, "x")
    assert f"no such verb '{verb}'; did you mean 'kronq {meant}'?" in line
    assert "did you mean" not in kronq.refuses("zzzz")


def test_a_name_on_the_hub(kronq: Kronq) -> None:
    line = kronq.refuses("inspect", "owner/some-adapter")
    assert "hf://owner/some-adapter" in line
    assert "hf download owner/some-adapter" in line


def test_a_wrong_base_is_short_and_says_the_right_one(
    kronq: Kronq, tmp_path: Path, out: Path
) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "many"
    folder.mkdir()
    tensors = {}
    for i in range(300):
        b, a = (m.float32() for m in adapters.lora(rng, 12, 10, 2).b.matrices)
        stem = f"base_model.model.transformer.blocks.{i}.attention.query_projection.lora_"
        tensors |= {f"{stem}A.weight": a, f"{stem}B.weight": b}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    config["base_model_name_or_path"] = "maker/right-base"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    base = tmp_path / "base.onnx"
    tiny_onnx.build(base)
    line = kronq.refuses("export", folder, "--base", base, "-o", out / "x")
    assert "300 of 300 adapted layers have no place in the base" in line
    assert "expected maker/right-base, which the adapter was made for" in line
    assert len(line) < 600


def test_many_strange_tensors_are_three_and_a_count(
    kronq: Kronq, trained: Path, tmp_path: Path
) -> None:
    file = trained / "adapter_model.safetensors"
    strange = {f"strange.{i:03}": np.zeros((2, 2), np.float32) for i in range(250)}
    safetensors.numpy.save_file(safetensors.numpy.load_file(file) | strange, file)
    line = kronq.refuses("inspect", trained)
    assert "found strange.000, strange.001, strange.002 and 247 more" in line
    assert len(line.replace(str(tmp_path), "")) < 400
    assert "strange.249" in kronq("inspect", trained, "-v").err
    with pytest.raises(KronqError) as error:
        package.load(trained)
    assert error.value.found == ", ".join(strange)


def test_names_as_text() -> None:
    assert listing("cab") == listing("bca").short == "a, b, c"
    assert listing(map(str, range(1000, 4000))).short == "1000, 1001, 1002 and 2,997 more"
    assert not listing([])


def test_half_a_surrogate_pair(kronq: Kronq, trained: Path) -> None:
    file = trained / "adapter_config.json"
    file.write_text(file.read_text().replace("maker/base", "maker/\\ud800base"))
    assert "has half of a surrogate pair" in kronq.refuses("inspect", trained, "--json")
    tensors = safetensors.numpy.load_file(trained / "adapter_model.safetensors")
    config = {"peft_type": "LOKR", "r": 4, "alpha": 8, "base_model_name_or_path": "\ud800"}
    with pytest.raises(KronqError, match="half of a surrogate pair"):
        package.Adapter.from_state_dict(tensors, config)


@pytest.mark.skipif(os.name == "nt", reason="names of files are Unicode")
def test_a_file_whose_name_is_no_utf8(kronq: Kronq, trained: Path, out: Path) -> None:
    folder = trained.rename(os.fsdecode(os.fsencode(trained) + b"-\xff"))
    result = kronq("quantize", folder, "-o", out / "a.safetensors", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json()["source"].endswith("my-lokr-\\udcff")
    assert "my-lokr-\\udcff" in kronq.refuses("inspect", f"{folder}-absent")
    assert kronq("inspect", folder, "--json").code == 0


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_terminal_without_unicode(trained: Path, encoding: str, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "kronq", "quantize", str(trained), "--dry-run", *options]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    if options:
        assert json.loads(done.stdout.decode(encoding))["method"] == "native"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_says_where(tmp_path: Path, number: int) -> None:
    for name, maker in (("a.safetensors", new_file), ("folder", lambda p: new_folder(p, "x"))):
        with pytest.raises(KronqError) as told, maker(tmp_path / name):  # type: ignore[operator]
            raise OSError(number, os.strerror(number))
        line = str(told.value)
        assert str(tmp_path / name) in line
        assert f"{os.strerror(number)}; " in line
        assert "bytes are free there" in line
    assert not list(tmp_path.iterdir())
