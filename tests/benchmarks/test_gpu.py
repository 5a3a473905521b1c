"""The measurement for a GPU, run on the CPU and a tiny model; by default it asks for CUDA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kronq
from benchmarks import gpu, gpu_models
from kronq.errors import MissingDependencyError
from tests.evaluate.tiny import tiny_adapter

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("transformers")

SHORT = ("--batches", "1", "3", "--prompt", "8", "--new", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_hf: Path) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    packed = kronq.save(kronq.quantize(tiny_adapter(), bits=8), folder / "a.safetensors")
    gpu_models.main([str(folder), "--source", str(tiny_hf), "--adapter", str(packed)])
    return folder


@pytest.mark.slow
def test_all_of_it_on_the_cpu(folder: Path, tmp_path: Path, capsys) -> None:
    gpu.main([str(folder), "--provider", "cpu", "--json", str(tmp_path / "x.json"), *SHORT])
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["left_out"] == []
    forms = {"base", "branch", "merged", "slots", "slots, adapter"}
    for precision in ("fp16", "int4"):
        one = found[precision]
        assert one["logits"].keys() == forms
        assert max(one["logits"].values()) == 0  # the CPU beside itself
        assert one["times"].keys() == {"1", "3"}
        assert all(each.keys() == forms for each in one["times"].values())
        assert one["times"]["3"]["slots"]["step"] > 0
        assert one["load"] > one["activate"] > 0
        counts = {name: sum(nodes.values()) for name, nodes in one["nodes"].items()}
        assert counts["slots"] > counts["base"]
        assert counts["branch"] > counts["merged"]
    shown = capsys.readouterr().out
    assert "fp16: form" in shown
    assert "another adapter: " in shown


@pytest.mark.slow
def test_what_there_is_no_time_for_is_said(folder: Path, tmp_path: Path, capsys) -> None:
    line = [str(folder), "--provider", "cpu", "--seconds", "0", "--json", str(tmp_path / "x.json")]
    gpu.main([*line, *SHORT])
    assert json.loads((tmp_path / "x.json").read_text())["left_out"] == ["fp16", "int4"]
    assert "no time for: fp16, int4" in capsys.readouterr().out


def test_cuda_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="onnxruntime-gpu"):
        gpu.main([str(tmp_path)])
