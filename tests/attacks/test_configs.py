"""A stranger's config.json: no program is loaded, and no size is believed that fills memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kronq
from kronq import AdapterShape
from kronq.base.hf_folder import check_hf_folder
from kronq.errors import FormatError, KronqError
from tests.cli.command import Kronq
from tests.cli.test_control_characters import EVIL, assert_harmless

pytest.importorskip("transformers")

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
KERNEL = "evil/kernel"
"""A repository of compiled kernels, that transformers would download and open."""


@pytest.fixture
def kronq_verb(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


def write(folder: Path, config: dict[str, Any] | bytes) -> Path:
    file = folder / "config.json"
    file.write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    return file


def plan(file: Path) -> kronq.planning.plan_adapters.Plan:
    return kronq.plan(file, [AdapterShape("lora", 2)])


@pytest.mark.parametrize(
    "more",
    [
        {"num_hidden_layers": 10**9},
        {"num_labels": 10**9},
        {"model_type": "t5", "num_decoder_layers": 10**9},
        {"model_type": "bart", "decoder_layers": 10**9},
        {"model_type": "swin", "depths": [60_000, 60_000]},
        {"model_type": "llava", "text_config": {"model_type": "llama", "num_hidden_layers": 10**9}},
    ],
    ids=lambda more: [*more][-1],
)
def test_sizes_of_a_model_that_nobody_has(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="too many layers") as error:
        plan(write(tmp_path, LLAMA | more))
    assert error.value.code == "limit"


def test_modules_are_counted_while_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever name of a config asks for them."""
    file = write(tmp_path, LLAMA)
    assert plan(file).layers == 14
    monkeypatch.setenv("KRONQ_MAX_MODULES", "20")
    with pytest.raises(FormatError, match="too many modules") as error:
        plan(file)
    assert error.value.code == "limit"


@pytest.mark.parametrize(
    "more",
    [
        {"vocab_size": 10**12},
        {"vocab_size": 10**30},
        {"max_position_embeddings": 10**15},
        {"hidden_size": -64},
        {"hidden_size": [64]},
        {"num_hidden_layers": "9" * 5000},
        {"num_attention_heads": {"a": 1}},
        {"rope_scaling": [1]},
        {"dtype": ["x"]},
        {"hidden_act": EVIL},
        {"model_type": EVIL},
        {"model_type": "a\0b"},
        {"architectures": "x"},
        {"architectures": [EVIL]},
        {"self": 1, "config": 2, "cls": 3, EVIL: 4},
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}},
        {"attn_implementation": KERNEL},
        {"_attn_implementation": KERNEL},
        {"experts_implementation": KERNEL},
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_values_are_planned_or_refused_in_one_line(
    kronq_verb: Kronq, tmp_path: Path, more: dict[str, Any], options: list[str]
) -> None:
    result = kronq_verb("plan", write(tmp_path, LLAMA | more), *options)
    assert result.code in (0, 2)
    assert result.err.count("\n") == (result.code == 2)
    assert_harmless(result.out + result.err)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0",
        b"null",
        b"[1]",
        b'\xef\xbb\xbf{"model_type": "llama"}',
        b'{"model_type": "llama", "model_type": "bert"}',
        b'{"model_type": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model_type": "llama", "hidden_size": ' + b"9" * 5000 + b"}",
        '{"model_type": "\u2028"}'.encode(),
        '{"model_type": "llama"}'.encode("utf-16"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_texts_that_are_no_config(kronq_verb: Kronq, tmp_path: Path, text: bytes) -> None:
    assert_harmless(kronq_verb.refuses("plan", write(tmp_path, text)))


def test_no_verb_opens_a_base_of_a_billion_layers(tmp_path: Path) -> None:
    write(tmp_path, LLAMA | {"num_hidden_layers": 10**9})
    with pytest.raises(FormatError, match="too many layers") as error:
        check_hf_folder(tmp_path)
    assert error.value.code == "limit"


def test_modules_are_counted_where_a_base_is_opened_in_torch(
    tiny_hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kronq.calibration.torch_model import load_model

    monkeypatch.setenv("KRONQ_MAX_MODULES", "20")
    with pytest.raises(FormatError, match="too many modules") as error:
        load_model(tiny_hf, device="cpu")
    assert error.value.code == "limit"


@pytest.mark.parametrize("name", ["../w.safetensors", "/w.safetensors", "a\\..\\..\\w.safetensors"])
def test_parts_of_the_weights_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, LLAMA)
    for file in ("tokenizer.json", "other.safetensors"):
        (tmp_path / file).write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(FormatError, match="weights outside of the folder") as error:
        check_hf_folder(tmp_path)
    assert error.value.code == "outside"


@pytest.mark.parametrize(
    "more",
    [
        {"_attn_implementation": KERNEL},
        {"attn_implementation": {"": "sdpa", "text_config": KERNEL}},
        {"attn_implementation": "flash_attention_2"},
        {"text_config": {"experts_implementation": KERNEL}},
        {"parts": [{"_attn_implementation_internal": KERNEL}]},
    ],
    ids=str,
)
def test_no_verb_opens_a_base_with_foreign_kernels(tmp_path: Path, more: dict[str, Any]) -> None:
    """base, calibrate, tune, train and study ask this before transformers opens a folder."""
    write(tmp_path, LLAMA | more)
    with pytest.raises(KronqError, match="operators that transformers does not have") as error:
        check_hf_folder(tmp_path)
    assert error.value.code == "library"
