"""Bases built from Hugging Face folders and GGUF files."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from click.testing import CliRunner

from kronq import Session
from kronq.base.build import build_base
from kronq.base.gguf import gguf_to_hf
from kronq.cli import cli
from kronq.errors import FormatError, KronqError, OutputExistsError, UnsupportedError


def matmuls(folder):
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    return [node.name for node in graph.node if node.op_type == "MatMul"]


def test_a_built_base_has_all_files(tiny_build):
    report, steps = tiny_build
    files = list(report.path.iterdir())
    assert {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"} <= {
        file.name for file in files
    }
    assert report.file_bytes == sum(file.stat().st_size for file in files)
    assert (report.source_format, report.architecture) == ("huggingface", "LlamaForCausalLM")
    assert report.layers == 2
    assert steps[0] == "building the graph"
    names = matmuls(report.path)
    for one in ("q", "k", "v"):
        assert f"/model/layers.1/attn/{one}_proj/MatMul" in names
    assert list(report.path.parent.iterdir()) == [report.path]


def test_the_folder_is_configured_for_exact_arithmetic(tiny_base):
    config = json.loads((tiny_base / "genai_config.json").read_text())
    options = config["model"]["decoder"]["session_options"]
    assert options["session.qdq_matmulnbits_accuracy_level"] == "0"
    assert options["provider_options"] == []


@pytest.mark.slow
def test_fp16_runs_on_the_cpu(tiny_hf, tiny_base, tmp_path):
    out = tmp_path / "base"
    result = CliRunner().invoke(
        cli, ["base", str(tiny_hf), "-o", str(out), "--precision", "fp16", "--fuse-qkv", "--json"]
    )
    report = json.loads(result.stdout)
    assert (report["precision"], report["fuse_qkv"]) == ("fp16", True)
    assert report["agreement"]["same_token"] > 0.9
    assert report["agreement"]["kl"] < 1e-3
    assert not any("q_proj" in name for name in matmuls(out))
    half, full = Session(out), Session(tiny_base)
    assert abs(half.logits([5, 6, 7]) - full.logits([5, 6, 7])).max() < 0.05
    assert len(half.generate("ab", max_tokens=3).tokens) == 3


@pytest.mark.slow
def test_int4_keeps_activations_in_float(tiny_hf, tmp_path):
    build_base(tiny_hf, tmp_path / "base", "int4")
    graph = onnx.load(tmp_path / "base" / "model.onnx", load_external_data=False).graph
    quantized = [node for node in graph.node if node.op_type == "MatMulNBits"]
    levels = {a.i for node in quantized for a in node.attribute if a.name == "accuracy_level"}
    assert len(quantized) == 7 * 2 + 1
    assert levels <= {0}


def test_an_output_is_not_overwritten_without_force(tiny_base, tiny_hf):
    with pytest.raises(OutputExistsError, match="hint: force overwrites"):
        build_base(tiny_hf, tiny_base)


def without(folder, out, pattern):
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(pattern))
    return out


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("config.json", r"not a Hugging Face folder: no config\.json"),
        ("tokenizer*", r"no tokenizer; expected tokenizer\.json"),
        ("*.safetensors", "no weights"),
    ],
)
def test_incomplete_folders(tiny_hf, tmp_path, pattern, message):
    source = without(tiny_hf, tmp_path / "hf", pattern)
    with pytest.raises(KronqError, match=message):
        build_base(source, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_folder_with_only_a_gguf_hints_at_the_file(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(KronqError, match=r"give the file itself: .*m\.gguf"):
        build_base(tmp_path, tmp_path / "base")


def test_sources_that_are_no_model(tmp_path):
    with pytest.raises(KronqError, match="no such file or folder"):
        build_base(tmp_path / "missing", tmp_path / "base")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(KronqError, match="neither a folder nor a GGUF file"):
        build_base(tmp_path / "note.txt", tmp_path / "base")


def test_an_unknown_precision(tiny_hf, tmp_path):
    with pytest.raises(KronqError, match="unknown precision; found int3; expected as-is, fp32"):
        build_base(tiny_hf, tmp_path / "base", "int3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "as-is"}, "keeps the blocks of a GGUF file"),
        ({"precision": "fp16", "fast": True}, "fast needs quantized weights; found fp16"),
    ],
)
def test_options_that_do_not_go_together(tiny_hf, tmp_path, options, message):
    with pytest.raises(KronqError, match=message):
        build_base(tiny_hf, tmp_path / "base", **options)


@pytest.mark.slow
def test_an_architecture_the_builder_does_not_know(tiny_hf, tmp_path):
    source = without(tiny_hf, tmp_path / "hf", "nothing")
    config = json.loads((source / "config.json").read_text())
    config["architectures"] = ["OwlForCausalLM"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="not currently supported"):
        build_base(source, tmp_path / "base")
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"not one", FormatError, r"m\.gguf"),
        (b"GGUF and then nothing of the sort", UnsupportedError, r"m\.gguf.* found 1684955424"),
    ],
)
def test_damaged_ggufs(tmp_path, content, error, message):
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    with pytest.raises(error, match=message):
        gguf_to_hf(file, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.slow
def test_q_k_and_v_stay_apart_in_a_real_base(smollm_base):
    names = matmuls(smollm_base)
    assert len(names) == 7 * 30 + 1
    assert sum(name.endswith(("/q_proj/MatMul", "/k_proj/MatMul")) for name in names) == 60
