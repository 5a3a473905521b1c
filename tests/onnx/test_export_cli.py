"""``kronq export``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from kronq.cli.export import command
from kronq.packed import save
from tests.onnx import tiny_onnx as tiny


def files(tmp_path: Path) -> tuple[str, str]:
    tiny.build(tmp_path / "base" / "model.onnx")
    return str(save(tiny.adapter(bits=4), tmp_path / "a.safetensors")), str(tmp_path / "base")


def test_a_summary_for_people(tmp_path: Path) -> None:
    adapter, base = files(tmp_path)
    out = tmp_path / "out"
    result = CliRunner().invoke(command, [adapter, "--base", base, "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "layers against the normal form" in result.output
    assert "adapter.safetensors" in result.output
    assert (out / "model.onnx").is_file()


def test_json_alone_on_stdout(tmp_path: Path) -> None:
    adapter, base = files(tmp_path)
    arguments = [adapter, "--base", base, "-o", str(tmp_path / "out"), "--form", "merged", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "kronq", "export", *arguments], capture_output=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["form"] == "merged"
    assert {*report["layers"]} == {*tiny.LAYERS}
    assert report["verification"]["layers"]["relative"] < 1e-6
    assert report["nbytes"] == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())


def test_settings_of_one_form_are_refused_for_another(tmp_path: Path) -> None:
    adapter, base = files(tmp_path)
    arguments = [adapter, "--base", base, "-o", str(tmp_path / "out"), "--form"]
    result = CliRunner().invoke(command, [*arguments, "merged", "--kernel"])
    assert "for slots; found the form merged" in str(result.exception)
    result = CliRunner().invoke(command, [*arguments, "branch", "--allow-loss"])
    assert "--allow-loss is for --form merged" in str(result.exception)


def test_without_checks(tmp_path: Path) -> None:
    adapter, base = files(tmp_path)
    arguments = [adapter, "--base", base, "-o", str(tmp_path / "out"), "--no-verify"]
    result = CliRunner().invoke(command, arguments)
    assert "not run (--no-verify)" in result.output


def test_a_wrong_base_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    tiny.build(tmp_path / "other.onnx", names="torchscript")
    other = save(tiny.adapter(layers={"decoder.block.0.q": (8, 8)}), tmp_path / "b.safetensors")
    arguments = [str(other), "--base", str(tmp_path / "other.onnx"), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "kronq", "export", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "decoder.block.0.q" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_has_examples() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert "Examples:" in result.output
    assert "kronq export my-lokr/" in result.output
