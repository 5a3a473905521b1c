"""``kronq inspect``."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import Kronq


def test_a_trained_adapter(kronq: Kronq, trained: Path) -> None:
    result = kronq("inspect", trained)
    assert (result.code, result.err) == (0, "")
    assert f"{trained}: kron adapter (peft), base maker/base" in result.out
    assert "model.layers.{0-2}.self_attn.q_proj ×3" in result.out
    assert "128×96" in result.out
    assert "total ×6, file" in result.out


def test_a_packed_one(kronq: Kronq, trained: Path, out: Path) -> None:
    """With how it was quantized, and the error that was measured then."""
    file = out / "a.safetensors"
    report = kronq("quantize", trained, "-o", file, "--bits", 4, "--json").json()
    result = kronq("inspect", file)
    assert f"{file}: kron adapter (kronq), base maker/base" in result.out
    assert "quantized: method balanced, bits 4, axis component" in result.out
    assert f"relative_error {report['total']['relative_error']:.4g}" in result.out
    told = kronq("inspect", file, "--json").json()
    assert (told["format"], told["family"], told["layers"]) == ("kronq", "kron", 6)
    assert told["bytes"] == report["total"]["bytes"] == file.stat().st_size
    assert told["recipe"]["relative_error"] == report["total"]["relative_error"]
    assert {tuple(group["dtypes"]) for group in told["groups"]} == {("float16", "int4", "int4")}


def test_a_long_name_is_not_cut(kronq: Kronq, trained: Path) -> None:
    """In a pipe there is no terminal whose width could matter."""
    assert "…" not in kronq("inspect", trained).out


def test_nothing_there(kronq: Kronq, tmp_path: Path) -> None:
    error = kronq.refuses("inspect", tmp_path / "nothing")
    assert error == f"kronq: error: {tmp_path}/nothing: no such file or folder"
    assert "adapter_config.json" in kronq.refuses("inspect", tmp_path)


def test_a_name_that_is_too_long(kronq: Kronq) -> None:
    assert "File name too long" in kronq.refuses("inspect", "x" * 5000)


def test_a_file_that_is_no_adapter(kronq: Kronq, tmp_path: Path) -> None:
    file = tmp_path / "text.safetensors"
    file.write_text("not an adapter at all")
    assert "not a safetensors file, or a truncated one" in kronq.refuses("inspect", file)
