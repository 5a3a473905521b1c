"""Bases with layers that see a window of 16 tokens: beside torch, within the window and beyond it.

Those that ``kronq base`` builds, and one with a windowed KV cache, as onnxruntime-genai's builder
makes it unasked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kronq
from kronq.base.build import build_base
from kronq.base.builder_process import mend_config
from kronq.errors import UnsupportedError
from tests.cli.conftest import kronq as kronq_cli
from tests.tiny_llama import save_tokenizer

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime_genai")

__all__ = ["kronq_cli"]

WINDOW, NEAR, FAR = 16, 10, 50
IDS = list(range(3, 3 + FAR))
SIZES = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "sliding_window": WINDOW,
}
HEADS = {"head_dim": 16}
STRETCHED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
GEMMA3 = HEADS | {
    "rope_parameters": STRETCHED,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
SOME = {"use_sliding_window": True, "max_window_layers": 2}
YARN = {"rope_type": "yarn", "rope_theta": 1.5e5, "factor": 4.0, "truncate": False}
YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 1024}
GPT_OSS = {
    "head_dim": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "rope_parameters": YARN,
    "max_position_embeddings": 4096,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("Gemma2", HEADS),
    "gemma3": ("Gemma3Text", GEMMA3),
    "mistral": ("Mistral", {}),
    "phi3": ("Phi3", {"original_max_position_embeddings": 128}),
    "qwen2": ("Qwen2", SOME),
    "qwen3": ("Qwen3", HEADS | SOME),
    "gpt-oss": ("GptOss", GPT_OSS),
}


@dataclass(frozen=True)
class Built:
    """A base and its source in torch."""

    hf: Path
    base: Path

    def load(self) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            self.hf, dtype=torch.float32
        ).eval()


def save_model(name: str, folder: Path) -> None:
    kind, settings = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**SIZES | settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # so that attention is not the mean over all tokens
    save_tokenizer(folder)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def built(once_per_run):
    def build(name: str, *, windowed: bool = False) -> Built:
        def make(out: Path) -> None:
            save_model(name, out / "hf")
            (build_windowed if windowed else build_base)(out / "hf", out / "base")

        folder = once_per_run(f"{name}-windowed-{windowed}", make)
        return Built(folder / "hf", folder / "base")

    return build


def build_windowed(hf: Path, out: Path) -> None:
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-i", str(hf)]
    command += ["-o", str(out), "-p", "fp32", "-e", "cpu", "-c", str(out) + "-cache"]
    command += ["--extra_options", "fuse_qkv=false", "hf_token=false"]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=os.environ | offline)


def torch_logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def torch_continues(model: Any, ids: list[int], tokens: int) -> list[int]:
    settings = {"do_sample": False, "pad_token_id": 1, "max_new_tokens": tokens}
    return model.generate(torch.tensor([ids]), **settings)[0, len(ids) :].tolist()


def check_against_torch(built: Built) -> None:
    model, session = built.load(), kronq.Session(built.base, device="cpu")
    for tokens in (NEAR, FAR):
        wanted = torch_logits(model, IDS[:tokens])
        np.testing.assert_allclose(session.logits(IDS[:tokens])[0], wanted, atol=1e-5)
    for prompt, tokens in (("hello", 4), ("hello", 40), ("a prompt longer than the window", 40)):
        found = session.generate(prompt, max_tokens=tokens)
        ids = session.tokenize(prompt)
        assert list(found.tokens) == torch_continues(model, ids, tokens)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_base_beside_torch(built, name: str) -> None:
    check_against_torch(built(name))


@pytest.mark.slow
def test_a_base_with_a_windowed_cache_beside_torch(built) -> None:
    windowed = built("gemma2", windowed=True)
    check_against_torch(windowed)
    model, session = windowed.load(), kronq.Session(windowed.base, device="cpu")
    ids = np.array([IDS[:30]] * 2)
    mask = np.arange(30) < np.array([[5], [30]])
    padded = session.logits(ids, mask.astype(np.int64))
    for row, tokens in zip(padded, (5, 30), strict=True):
        np.testing.assert_allclose(row[:tokens], torch_logits(model, IDS[:tokens]), atol=1e-5)
    with pytest.raises(UnsupportedError, match="padding on the right only"):
        session.logits(ids, mask[:, ::-1].astype(np.int64))
    with pytest.raises(UnsupportedError, match="prompts of one length"):
        session.generate_batch(["one", "another"], max_tokens=2)
    same = session.generate_batch(["other", "seven"], max_tokens=20)
    alone = session.generate("seven", max_tokens=20)
    assert same[1].tokens == alone.tokens


@pytest.mark.slow
@pytest.mark.parametrize("windowed", [False, True])
def test_every_verb(built, kronq_cli, tmp_path: Path, windowed: bool) -> None:
    source = built("gemma2", windowed=windowed)
    base, trained, packed = source.base, tmp_path / "trained", tmp_path / "a.safetensors"
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(source.load(), config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(trained)
    questions, text = tmp_path / "q.jsonl", tmp_path / "t.txt"
    rows = [{"question": f"q{i}?", "choices": ["a", "b"], "answer": i % 2} for i in range(8)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    text.write_text("hello world, some text " * 20)
    cache = ("--cache", tmp_path / "cache")
    asked = (
        ("run", base, "--prompt", "hello", "--max-tokens", 4),
        ("score", trained, "--base", base, "--tasks", questions),
        ("quantize", trained, "-o", packed, "--calibration", text, "--base", base, *cache),
        ("calibrate", trained, "--base", base, "--calibration", text, *cache),
    )
    for line in asked:
        assert kronq_cli(*line).code == 0, line
    wanted = torch_logits(model.eval(), IDS)
    for form in ("slots", "branch", "merged"):
        report = kronq.export_onnx(kronq.load(trained), base, tmp_path / form, form=form)
        assert report.verification is not None
        assert report.verification.model_skipped is None
        adapters = {"a": trained} if form == "slots" else {}
        session = kronq.Session(tmp_path / form, adapters, device="cpu")
        with_it = {"adapter": "a"} if adapters else {}
        np.testing.assert_allclose(session.logits(IDS, **with_it)[0], wanted, atol=1e-4)
        assert len(session.generate("hello", max_tokens=3, **with_it).tokens) == 3
    short = ("--prompt-tokens", 4, "--new-tokens", 4, "--rounds", 1)
    assert kronq_cli("bench", tmp_path / "slots", "--adapter", packed, *short).code == 0


@pytest.mark.slow
def test_an_int4_base(built, tmp_path: Path) -> None:
    report = build_base(built("gemma3").hf, tmp_path / "base", "int4")
    assert report.agreement is not None
    assert report.agreement.tokens > WINDOW


def test_layers_slide_where_the_config_states_a_window_alone() -> None:
    config = transformers.MistralConfig(**SIZES)
    mend_config(config)
    assert config.layer_types == ["sliding_attention"] * 4
    whole = transformers.MistralConfig(**SIZES | {"sliding_window": None})
    mend_config(whole)
    assert getattr(whole, "layer_types", None) is None


def test_rotary_positions_of_two_kinds() -> None:
    config = transformers.Gemma3TextConfig(**SIZES | GEMMA3)
    mend_config(config)
    assert config.rope_parameters == STRETCHED["full_attention"]
    assert (config.rope_theta, config.rope_local_base_freq) == (1e6, 1e4)
    odd = STRETCHED | {"full_attention": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0}}
    config.rope_parameters = odd
    with pytest.raises(NotImplementedError, match="yarn and default"):
        mend_config(config)
