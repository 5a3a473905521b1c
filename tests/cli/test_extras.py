"""A verb whose extra is missing says so before it does anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.command import Kronq

TEXT = ["--calibration", "notes.txt"]
USES = {
    "onnxruntime_genai": [
        ["run", "base", "--prompt", "a"],
        ["chat", "base"],
        ["bench", "base"],
        ["score", "my-lokr", "--base", "base", "--tasks", "notes.txt"],
        ["compare", "my-lokr", "--tasks", "notes.txt", "--base", "base"],
        ["calibrate", "my-lokr", *TEXT, "--base", "base"],
        ["quantize", "my-lokr", "-o", "a.safetensors", *TEXT, "--base", "base"],
        ["quantize", "my-lokr", "-o", "a.safetensors", "--base", "base", "--tasks", "notes.txt",
         "--max-loss-increase", "1%"],
    ],
    "torch": [
        ["base", "base", "-o", "out"],
        ["calibrate", "my-lokr", *TEXT, "--hf-model", "base", "--metric", "two-sided"],
        ["quantize", "my-lokr", "-o", "a.safetensors", *TEXT, "--hf-model", "base",
         "--method", "tuned", "--size", "4KB"],
    ],
    "starlette": [["serve", "base"]],
    "pyarrow": [["study", "notes.txt", "-o", "out"]],
    "matplotlib": [["compare", "my-lokr", "--plot", "a.svg"]],
}  # fmt: skip
"""Missing package → commands that need it, in a folder where nothing else is right."""
EXTRAS = {
    "onnxruntime_genai": "genai",
    "torch": "torch",
    "matplotlib": "plot",
    "starlette": "serve",
    "pyarrow": "study",
}


@pytest.mark.parametrize(
    ("package", "arguments"),
    [(package, arguments) for package, uses in USES.items() for arguments in uses],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_a_missing_extra_is_noticed_before_work_starts(
    kronq: Kronq,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    arguments: list[str],
) -> None:
    """The adapter and the base are empty folders: whatever read them would complain of those."""
    for folder in ("base", "my-lokr"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notes.txt").write_text("Bees make honey.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    line = kronq.refuses(*arguments)
    extra = "base" if arguments[0] == "base" else EXTRAS[package]
    assert f"found no {package} (hint: pip install 'kronq[{extra}]'" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "my-lokr", "notes.txt"]
