"""``kronq convert``: its summary, its table, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq as package
from tests import adapters
from tests.cli.command import Kronq


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return package.convert(adapters.adapter(kinds=("kron", "full_b")), tmp_path / "in", to="lora")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    adapter = adapters.adapter(kinds=("kron", "full_b"))
    return package.save(adapter, tmp_path / "small.safetensors")


def test_a_rank_says_what_it_costs(kronq: Kronq, packed: Path, tmp_path: Path) -> None:
    result = kronq("convert", packed, "--to", "lora", "--rank", 5, "-o", tmp_path / "out")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split() == ["layers", "rank", "error", "%"]
    assert [line.split()[0] for line in lines[1:4]] == [
        "model.layers.{0-2}.full_b",
        "model.layers.{0-2}.kron",
        "total",
    ]
    assert "LoRA, 6 layers, rank 5, " in lines[-1]
    every = kronq("convert", packed, "--to", "lora", "--rank", 5, "-o", tmp_path / "v", "-v").out
    assert len(every.splitlines()) == len(lines) + 4


def test_the_report(kronq: Kronq, packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = kronq("convert", packed, "--to", "lora", "--rank", 5, "-o", out, "--json").json()
    written = package.load(out)
    assert (report["form"], report["family"], report["rank"]) == ("lora", "lora", 5)
    assert report["parameters"] == written.parameters
    assert report["bytes"] == (out / "adapter_model.safetensors").stat().st_size
    assert {layer["name"] for layer in report["layer_errors"]} == {*written}
    worst = max(layer["relative_error"] for layer in report["layer_errors"])
    assert 0 < report["relative_error"] < worst < 1
    trained = package.load(packed)
    missing = [adapters.dense(trained[name]) - adapters.dense(written[name]) for name in trained]
    whole = np.linalg.norm([np.linalg.norm(adapters.dense(delta)) for delta in trained.values()])
    expected = np.linalg.norm([np.linalg.norm(each) for each in missing]) / whole
    assert report["relative_error"] == pytest.approx(expected, rel=1e-4)
    exact = kronq("convert", packed, "--to", "lora", "-o", tmp_path / "exact", "--json").json()
    assert (exact["relative_error"], exact["layer_errors"]) == (None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "peft", "--rank", "4"], "rank is for forms that are LoRA; found peft"),
        (["--to", "onnx_adapter", "--model", "x", "--rank", "4"], "--rank are not for"),
        (["--to", "gguf"], "hint: --base-model with the base"),
        (["--to", "lora", "--rank", "0"], "Invalid value for '--rank'"),
    ],
)
def test_mistakes(
    kronq: Kronq, packed: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    out = tmp_path / "out"
    result = kronq("convert", packed, "-o", out, *options)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert not out.exists()


@pytest.mark.parametrize("to", ["lora", "gguf"])
def test_an_output_that_exists(kronq: Kronq, packed: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert "the output exists" in kronq.refuses("convert", packed, "--to", to, "-o", out)
    assert out.read_text() == "mine"
