"""Files that a library cannot read: the error names the file, not only the folder it is in."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from kronq import save
from kronq.base.hf_folder import check_hf_folder
from kronq.onnx.base_folder import copy_sidecars
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter
from tests.onnx import tiny_onnx

pytest.importorskip("onnxruntime_genai")

DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "no text": lambda data: b"\xff\xfe" + data[2:],
    "empty": lambda data: data[:0],
}
KINDS = {
    "list": lambda _data: b"[]",
    "null": lambda _data: b"null",
    "text": lambda _data: b'"model"',
    "deep": lambda _data: b"[" * 100_000,
}
"""Valid JSON that is no object, or too deep for Python to tell."""
UNUSUAL = {
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "names twice": lambda data: b'{"x\x7f": 1, "x\x7f": 2, ' + data.lstrip()[1:],
    "no number": lambda data: b'{"x": NaN, ' + data.lstrip()[1:],
    "half a surrogate pair": lambda data: rb'{"x": "\ud800", ' + data.lstrip()[1:],
    "Windows": lambda data: data.replace(b"\n", b"\r\n"),
    "no settings": lambda _data: b"{}",
}
"""Contents that some program reads."""


def damage(folder: Path, tmp_path: Path, name: str, how: str) -> Path:
    """Returns a damaged file in a copy of its folder."""
    file = Path(shutil.copytree(folder, tmp_path / "copy"), name)
    file.write_bytes((DAMAGES | KINDS | UNUSUAL)[how](file.read_bytes()))
    return file


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "genai_config.json"])
def test_json_of_a_model_folder(
    kronq: Kronq, tiny_base: Path, tmp_path: Path, name: str, how: str
) -> None:
    file = damage(tiny_base, tmp_path, name, how)
    line = kronq.refuses("run", file.parent, "--prompt", "a", "--max-tokens", 1)
    assert line.startswith(f"kronq: error: {file}: ")


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_json_of_another_kind(
    kronq: Kronq,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    how: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    file = damage(tiny_base, tmp_path, name, how)
    for verb in (("run", file.parent, "--prompt", "a"), ("chat", file.parent)):
        line = kronq.refuses(*verb)
        assert line.startswith(f"kronq: error: {file}: ")


def test_a_tokenizer_without_a_model(kronq: Kronq, tiny_base: Path, tmp_path: Path) -> None:
    file = damage(tiny_base, tmp_path, "tokenizer.json", "no settings")
    line = kronq.refuses("run", file.parent, "--prompt", "a")
    assert f"{file.parent}: no usable tokenizer" in line
    assert "expected tokenizer.json and tokenizer_config.json" in line


@pytest.mark.parametrize("how", [*DAMAGES, *KINDS])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_not_copied(
    kronq: Kronq, tiny_base: Path, tmp_path: Path, name: str, how: str
) -> None:
    adapter = save(tiny_adapter(), tmp_path / "adapter.safetensors")
    file, out = damage(tiny_base, tmp_path, name, how), tmp_path / "out"
    line = kronq.refuses("export", adapter, "--base", file.parent, "-o", out)
    assert line.startswith(f"kronq: error: {file}: ")
    assert len(line) < 1500
    assert not out.exists()


@pytest.mark.parametrize("how", UNUSUAL)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_an_unusual_tokenizer_is_copied(
    tiny_base: Path, tmp_path: Path, name: str, how: str
) -> None:
    file, out = damage(tiny_base, tmp_path, name, how), tmp_path / "out"
    (file.parent / "added_tokens.json").write_text("[]")
    out.mkdir()
    copy_sidecars(file.parent / "model.onnx", out)
    assert (out / name).read_bytes() == file.read_bytes()
    assert (out / "added_tokens.json").is_file()


@pytest.mark.parametrize("how", ["truncated", "empty"])
@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_model(
    kronq: Kronq, tiny_base: Path, trained: Path, tmp_path: Path, name: str, how: str
) -> None:
    file = damage(tiny_base, tmp_path, name, how)
    for verb in (
        ("run", file.parent, "--prompt", "a", "--max-tokens", 1),
        ("export", trained, "--base", file.parent, "-o", tmp_path / "out"),
    ):
        assert kronq.refuses(*verb).startswith(f"kronq: error: {file}: ")


def test_a_base_of_something_else(
    kronq: Kronq, tiny_base: Path, trained: Path, tmp_path: Path
) -> None:
    line = kronq.refuses("export", trained, "--base", tiny_base, "-o", tmp_path / "out")
    assert line.startswith(f"kronq: error: {tiny_base / 'model.onnx'}: ")
    folder = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    tiny_onnx.build(folder / "model.onnx")
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"question": "a", "choices": ["b", "c"], "answer": 0}\n' * 2)
    line = kronq.refuses("score", "--base", folder, "--tasks", tasks)
    assert line.startswith(f"kronq: error: {folder / 'model.onnx'}: not a language model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_base_from_a_folder(kronq: Kronq, tiny_hf: Path, tmp_path: Path, name: str) -> None:
    file = damage(tiny_hf, tmp_path, name, "truncated")
    line = kronq.refuses("base", file.parent, "-o", tmp_path / "out")
    assert line.startswith(f"kronq: error: {file}: ")


def test_base_tokenizer(kronq: Kronq, tiny_hf: Path, tmp_path: Path) -> None:
    file = damage(tiny_hf, tmp_path, "tokenizer.json", "truncated")
    line = kronq.refuses("base", file.parent, "-o", tmp_path / "out")
    assert line.startswith(f"kronq: error: {file}: not JSON")


def test_a_part_of_the_weights(kronq: Kronq, tiny_hf: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "copy"))
    part = folder / "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").rename(part)
    index = folder / "model.safetensors.index.json"
    whole = shutil.copy(part, folder / "model-00002-of-00002.safetensors")
    index.write_text(f'{{"weight_map": {{"x": "{part.name}", "y": "{whole.name}"}}}}')
    part.write_bytes(part.read_bytes()[:-4])
    assert f"{part}: not a whole" in kronq.refuses("base", folder, "-o", tmp_path / "out")
    part.unlink()
    assert f"{part}: no such file" in kronq.refuses("base", folder, "-o", tmp_path / "out")
    index.write_text("{")
    assert f"{index}: not JSON" in kronq.refuses("base", folder, "-o", tmp_path / "out")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_in_transformers(
    kronq: Kronq, tiny_hf: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    file = damage(tiny_hf, tmp_path, name, "truncated")
    text = tmp_path / "text.txt"
    text.write_text("some words\n" * 20)
    verb = ("calibrate", trained, "--calibration", text, "--metric", "two-sided")
    line = kronq.refuses(*verb, "--hf-model", file.parent)
    assert line.startswith(f"kronq: error: {file}: not JSON")


@pytest.mark.parametrize(
    "verb",
    [("inspect",), ("card",), ("convert", "--to", "lora", "-o", "OUT"), ("quantize", "-o", "OUT")],
)
def test_an_adapter(kronq: Kronq, trained: Path, tmp_path: Path, verb: tuple[str, ...]) -> None:
    options = [str(tmp_path / "o.safetensors") if part == "OUT" else part for part in verb[1:]]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        folder = tmp_path / name.split(".")[0]
        shutil.copytree(trained, folder)
        file = folder / name
        file.write_bytes(file.read_bytes()[:40])
        line = kronq.refuses(verb[0], folder, *options)
        assert line.startswith(f"kronq: error: {file}: ")


def test_weights_that_are_not_loaded_may_be_anything(tiny_hf: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "copy"))
    (folder / "consolidated.safetensors").write_bytes(b"version https://git-lfs")
    check_hf_folder(folder)
