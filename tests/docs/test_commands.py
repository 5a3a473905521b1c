"""Runs the commands and Python blocks of the documentation, page by page."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from kronq import Adapter, convert, export_onnx, load, quantize, save
from kronq.cli import cli
from tests.cli.command import Kronq
from tests.docs.pages import blocks, pages_with
from tests.paths import EXAMPLE, ROOT

BLOCKS = 6  # of 30: the how-to pages have an adapter on these alone, which takes less time


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, smollm_q4: Path) -> Path:
    """Files that the how-to pages start from: a packed adapter, a model with slots, a cache."""
    folder = tmp_path_factory.mktemp("documentation")
    (folder / "cache").mkdir()
    trained = load(EXAMPLE)
    few = {name: trained[name] for name in trained if int(name.split(".")[2]) < BLOCKS}
    convert(Adapter(few, trained.origin), folder / EXAMPLE.name, to="peft")
    quantized = quantize(load(folder / EXAMPLE.name))
    save(quantized, folder / "small.safetensors")
    export_onnx(quantized, smollm_q4, folder / "app", verify=False)
    return folder


@pytest.fixture
def desk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared: Path,
    smollm_q4: Path,
    smollm_gguf: Path,
) -> Path:
    """A folder with what a reader of the documentation has."""
    for name, target in {
        "examples": ROOT / "examples",
        "base": smollm_q4,
        smollm_gguf.name: smollm_gguf,
    }.items():
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KRONQ_CACHE", str(shared / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", pages_with("sh", "python"))
def test_the_blocks_of_a_page_run(
    page: str, desk: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of a command's output may be left out of a page: …"""
    if "how-to" in page:
        for name in ("small.safetensors", "app"):
            (desk / name).symlink_to(shared / name)
        (desk / "examples").unlink()
        (desk / "examples").mkdir()
        for name in ("questions.jsonl", "README.md"):
            (desk / "examples" / name).symlink_to(ROOT / "examples" / name)
        (desk / "examples" / EXAMPLE.name).symlink_to(shared / EXAMPLE.name)
    printed = ""
    names: dict[str, object] = {}
    for block in blocks(ROOT / page):
        if block.language == "python":
            exec(compile(block.text, page, "exec"), names)  # noqa: S102
        elif block.language == "sh":
            printed = "".join(_run(line, Kronq(capsys)) for line in block.lines)
        elif block.language == "" and printed:
            absent = {line for line in block.lines if line != "…"} - set(printed.splitlines())
            assert not absent, printed


@pytest.mark.parametrize("page", pages_with("bash", "console"))
def test_commands_that_are_not_run_are_spelled_right(page: str) -> None:
    """Blocks of bash have nothing but kronq's commands, those of a console others as well."""
    for block in blocks(ROOT / page):
        for line in block.lines if block.language in ("bash", "console") else ():
            program, verb, *arguments = shlex.split(line)
            if program != "kronq" and block.language == "console":
                continue
            assert program == "kronq"
            command = cli.get_command(click.Context(cli), verb)
            assert command is not None
            command.make_context(verb, arguments)


def _run(line: str, kronq: Kronq) -> str:
    program, *arguments = shlex.split(line)
    assert program == "kronq"
    if arguments[0] == "base":  # it takes a minute, and the fixture has built it
        return ""
    result = kronq(*arguments)
    assert result.code == 0, f"{line}\n{result.out}{result.err}"
    return result.out
