"""``kronq inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from kronq.units import six_digits
from tests.cli.command import Kronq


def test_a_trained_adapter(kronq: Kronq, trained: Path) -> None:
    result = kronq("inspect", trained)
    assert (result.code, result.err) == (0, "")
    assert f"{trained}: kron adapter (peft), base maker/base" in result.out
    assert "model.layers.{0-2}.self_attn.q_proj ×3" in result.out
    assert "128×96" in result.out
    assert "total ×6, file" in result.out


def test_a_packed_one(kronq: Kronq, trained: Path, out: Path) -> None:
    """Shows the recipe, and the error measured when it was quantized."""
    file = out / "a.safetensors"
    report = kronq(
        "quantize", trained, "-o", file, "--bits", 4, "--method", "balanced", "--json"
    ).json()
    result = kronq("inspect", file)
    assert f"{file}: kron adapter (kronq), base maker/base" in result.out
    assert "quantized: method balanced, bits 4, axis component" in result.out
    assert f"relative_error {report['total']['relative_error']:.4g}" in result.out
    told = kronq("inspect", file, "--json").json()
    assert (told["format"], told["family"], told["layers"]) == ("kronq", "kron", 6)
    assert told["bytes"] == report["total"]["bytes"] == file.stat().st_size
    assert told["recipe"]["relative_error"] == six_digits(report["total"]["relative_error"])
    assert {tuple(group["dtypes"]) for group in told["groups"]} == {("float16", "int4", "int4")}


def test_a_narrow_terminal_cuts_nothing(
    kronq: Kronq, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are longer than the terminal is wide; no number is truncated."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for verb in (("inspect",), ("quantize", "--dry-run"), ("compare",)):
        assert "…" not in kronq(*verb, trained).out


def test_control_characters_are_escaped(kronq: Kronq, tmp_path: Path) -> None:
    """A file's names are shown with their control characters escaped, in tables and in errors."""
    file, name = tmp_path / "raw.safetensors", "layer\x1b[31m\u202e[red]:bee:"
    factors = {f"{name}.{part}": np.ones((2, 2), np.float32) for part in ("A", "B1", "B2")}
    safetensors.numpy.save_file(factors, file, {"alpha": "2", "base_model": "base\x1b[2J"})
    for verb in (("inspect",), ("quantize", "--dry-run")):
        shown = kronq(*verb, file).out
        assert r"layer\x1b[31m\u202e[red]:bee:" in shown
        assert shown.replace("\n", "").isprintable()
    safetensors.numpy.save_file({name: np.ones(2, np.float32)}, file)
    assert r"layer\x1b[31m\u202e[red]:bee:" in kronq.refuses("inspect", file)


def test_a_single_layer_has_its_own_name(kronq: Kronq, tmp_path: Path) -> None:
    file = tmp_path / "raw.safetensors"
    factors = {f"h.0.q.{part}": np.ones((2, 2), np.float32) for part in ("A", "B1", "B2")}
    safetensors.numpy.save_file(factors, file, {"alpha": "2"})
    assert "\nh.0.q " in kronq("inspect", file).out
    assert "\nh.0.q " in kronq("quantize", file, "--dry-run").out


def test_refuses_a_missing_path(kronq: Kronq, tmp_path: Path) -> None:
    error = kronq.refuses("inspect", tmp_path / "nothing")
    assert error == f"kronq: error: {tmp_path}/nothing: no such file or folder"
    assert "adapter_config.json" in kronq.refuses("inspect", tmp_path)


def test_refuses_a_name_that_is_too_long(kronq: Kronq) -> None:
    assert "File name too long" in kronq.refuses("inspect", "x" * 5000)


def test_refuses_a_file_of_another_kind(kronq: Kronq, tmp_path: Path) -> None:
    file = tmp_path / "text.safetensors"
    file.write_text("not an adapter at all")
    assert "not a safetensors file, or a truncated one" in kronq.refuses("inspect", file)


def test_an_error_names_everything_in_json(kronq: Kronq, tmp_path: Path) -> None:
    """Its line shows three names and a count."""
    path = tmp_path / "a.safetensors"
    names = [f"lycoris_x{i}.oft_blocks" for i in range(5)]
    factors = {f"lycoris_proj.lokr_w{i}": np.ones((2, 2), np.float32) for i in (1, 2)}
    safetensors.numpy.save_file(
        {name: np.ones((4, 2, 2), np.float32) for name in names} | factors, path
    )
    result = kronq("inspect", path, "--json")
    error = json.loads(result.out)["error"]
    assert error["message"] == "layers of another algorithm: OFT or BOFT on 5 layers"
    assert (error["found"], error["path"], error["layer"]) == (names, str(path), None)
    assert "and 2 more" in kronq.refuses("inspect", path)
