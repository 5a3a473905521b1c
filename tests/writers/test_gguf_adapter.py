"""llama.cpp with the adapter's file computes the logits of transformers with PEFT's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers
import xllamacpp  # noqa: F401  # the judge: without it this file is left out

import kronq
from kronq.errors import KronqError, MismatchError, UnsupportedError
from kronq.model.adapter import Adapter
from tests import adapters
from tests.llama_cpp import log_probabilities, save_gguf
from tests.tiny import LINEARS, save_peft
from tests.tiny_llama import VOCABULARY, save_tokenizer

TOKENS = [5, 40, 200, 7, 99, 100, 101]
LOKR: dict[str, Any] = {"r": 4, "alpha": 6, "decompose_factor": 4}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 6}
PATTERNS = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 3}}
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
ARCHITECTURES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "granite": transformers.GraniteConfig,
    "phi3": transformers.Phi3Config,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Any:
    """A function of an architecture: the folder and the GGUF file of a tiny model of it."""
    made: dict[str, tuple[Path, Path]] = {}

    def base(architecture: str) -> tuple[Path, Path]:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            save_tokenizer(folder / "hf")
            torch.manual_seed(0)
            more = {"head_dim": 16} if architecture == "qwen3" else {}
            model = transformers.AutoModelForCausalLM.from_config(
                ARCHITECTURES[architecture](**SIZES, **more)
            )
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(std=0.1)
            model.save_pretrained(folder / "hf")
            file = save_gguf(folder / "hf", folder / "base.gguf", architecture)
            made[architecture] = (folder / "hf", file)
        return made[architecture]

    return base


def trained(config: peft.PeftConfig, base: Path, folder: Path) -> np.ndarray:
    """Saves a random adapter; returns the log-probabilities that PEFT computes with it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft_log_probabilities(save_peft(config, folder, base=model))


def peft_log_probabilities(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, -1].double()
    return torch.log_softmax(logits, -1).numpy()


def difference(found: dict[int, float], expected: np.ndarray) -> float:
    assert len(found) == len(expected)
    return max(abs(expected[token] - value) for token, value in found.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_the_same_logits(tmp_path: Path, bases: Any, architecture: str, kind: str) -> None:
    hf, base = bases(architecture)
    modules: Any = "all-linear" if architecture == "phi3" else LINEARS
    config = (
        peft.LoraConfig(target_modules=modules, **LORA, **PATTERNS)
        if kind == "lora"
        else peft.LoKrConfig(target_modules=modules, **LOKR)
    )
    expected = trained(config, hf, tmp_path / "in")
    plain = difference(log_probabilities(base, TOKENS), expected)
    for given in (hf, base):
        out = tmp_path / f"{given.name}.adapter.gguf"
        kronq.convert(kronq.load(tmp_path / "in"), out, to="gguf", base_model=str(given))
        assert difference(log_probabilities(base, TOKENS, out), expected) <= 1e-5
    assert plain > 0.02
    files = [(tmp_path / f"{given.name}.adapter.gguf").read_bytes() for given in (hf, base)]
    assert files[0] == files[1]


@pytest.mark.parametrize(("dtype", "limit"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_precision(tmp_path: Path, bases: Any, dtype: str, limit: float) -> None:
    hf, base = bases("llama")
    expected = trained(peft.LoKrConfig(target_modules=LINEARS, **LOKR), hf, tmp_path / "in")
    adapter, out = kronq.load(tmp_path / "in"), tmp_path / "a.gguf"
    kronq.convert(adapter, out, to="gguf", base_model=str(base), dtype=dtype)
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert kinds == {{"fp16": "F16", "bf16": "BF16"}[dtype]}
    assert difference(log_probabilities(base, TOKENS, out), expected) <= limit


def test_a_smaller_rank(tmp_path: Path, bases: Any) -> None:
    """llama.cpp with the best LoRA of rank 6 is what PEFT computes with the same LoRA."""
    hf, base = bases("llama")
    trained(peft.LoKrConfig(target_modules=LINEARS, **LOKR), hf, tmp_path / "in")
    adapter, out = kronq.load(tmp_path / "in"), tmp_path / "a.gguf"
    kronq.convert(adapter, out, to="gguf", base_model=str(base), rank=6)
    kronq.convert(adapter, tmp_path / "lora", to="lora", rank=6)
    model = transformers.AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, str(tmp_path / "lora")).eval()
    expected = peft_log_probabilities(model)
    assert difference(log_probabilities(base, TOKENS, out), expected) <= 1e-5


def test_an_adapter_of_zeros(tmp_path: Path, bases: Any) -> None:
    """llama.cpp takes α = 0 for no α at all: the zeros are in the factors."""
    hf, base = bases("llama")
    trained(peft.LoraConfig(target_modules=LINEARS, r=4), hf, tmp_path / "in")
    read = kronq.load(tmp_path / "in")
    adapter = replace(
        read, layers={name: replace(delta, scale=0.0) for name, delta in read.items()}
    )
    kronq.convert(adapter, tmp_path / "a.gguf", to="gguf", base_model=str(base))
    found = log_probabilities(base, TOKENS, tmp_path / "a.gguf")
    assert found == log_probabilities(base, TOKENS)


def named(*names: str, shape: tuple[int, int] = (64, 64)) -> Adapter:
    rng = np.random.default_rng(0)
    return Adapter({name: adapters.lora(rng, *shape) for name in names})


@pytest.mark.parametrize("which", ["hf", "gguf"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.experts.3.up_proj", (64, 64)),
        ("model.layers.7.self_attn.q_proj", (64, 64)),
        ("model.embed_tokens", (258, 64)),
        ("vision_tower.layers.0.fc1", (64, 64)),
    ],
)
def test_layers_without_a_tensor_are_named(
    tmp_path: Path, bases: Any, which: str, name: str, shape: tuple[int, int]
) -> None:
    given = bases("llama")[which == "gguf"]
    adapter = named("model.layers.0.self_attn.q_proj", name, shape=shape)
    with pytest.raises(UnsupportedError) as error:
        kronq.convert(adapter, tmp_path / "a.gguf", to="gguf", base_model=str(given))
    assert (error.value.found, error.value.message[:8]) == (name, "1 of 2 l")
    assert not [*tmp_path.iterdir()]


def test_another_base_is_refused(tmp_path: Path, bases: Any) -> None:
    adapter = named("model.layers.0.mlp.up_proj", shape=(100, 64))
    with pytest.raises(MismatchError, match=r"found \[100, 64\], and blk\.0\.ffn_up\.weight is \["):
        kronq.convert(adapter, tmp_path / "a.gguf", to="gguf", base_model=str(bases("llama")[1]))


def test_the_base_is_never_replaced(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    adapter = named("model.layers.0.mlp.up_proj")
    with pytest.raises(KronqError, match="the output is or holds an input"):
        kronq.convert(adapter, base, to="gguf", base_model=str(base), force=True)
    assert base.read_bytes() == b"GGUF"


def test_a_base_is_needed_and_must_be_known(tmp_path: Path) -> None:
    adapter = named("model.layers.0.self_attn.q_proj")
    for given, words in (
        (None, "depend on the base, and it is not given"),
        ("maker/base", "no base that tells .* no such file or folder"),
        (str(tmp_path), "no base that tells"),
        (str(tmp_path / "model.safetensors"), "no such file or folder"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            kronq.convert(adapter, tmp_path / "a.gguf", to="gguf", base_model=given)
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["MambaForCausalLM"], "num_hidden_layers": 2}')
    with pytest.raises(UnsupportedError, match="found MambaForCausalLM; expected apertus, arcee"):
        kronq.convert(adapter, tmp_path / "a.gguf", to="gguf", base_model=str(tmp_path))
    config.write_text('{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": "2"}')
    with pytest.raises(KronqError, match="no usable number of layers"):
        kronq.convert(adapter, tmp_path / "a.gguf", to="gguf", base_model=str(tmp_path))


@pytest.mark.slow
def test_a_real_base_in_4_bits(tmp_path: Path, smollm_gguf: Path, smollm_hf: Path) -> None:
    """SmolLM2's Q4_1 file, and transformers with the weights that it stands for."""
    config = peft.LoKrConfig(target_modules=LINEARS, r=4, alpha=4, decompose_factor=8)
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm_hf, dtype=torch.float32)
    save_peft(config, tmp_path / "in", base=model)
    adapter, out = kronq.load(tmp_path / "in"), tmp_path / "a.gguf"
    small = {name: replace(delta, scale=0.5) for name, delta in adapter.items()}
    adapter = replace(adapter, layers=small)
    kronq.convert(adapter, out, to="gguf", base_model=str(smollm_gguf))
    kronq.convert(adapter, tmp_path / "peft", to="peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(smollm_hf, dtype=torch.float32).eval()
    plain = peft_log_probabilities(base)
    expected = peft_log_probabilities(
        peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    )
    found = log_probabilities(smollm_gguf, TOKENS, out, top=50)
    wrong = max(abs(expected[token] - value) for token, value in found.items())
    moved = max(abs(expected[token] - plain[token]) for token in found)
    # llama.cpp rounds activations to 8 bits for a base of 4 bits.
    assert wrong <= 0.1 * moved
