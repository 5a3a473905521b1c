"""A Phi-3 of two small layers, whose q, k and v (gate and up) are one weight, as its adapters are.

onnxruntime-genai's builder takes them apart again. Two key heads for six query heads: q, k and v
end in the middle of a LoKr's blocks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_llama import VOCABULARY, build, save_tokenizer

PHI3 = ("fp32", "fp32 fused", "fp16", "int4", "fp32 whole")
"""Bases that the builder makes of it; ``whole`` leaves gate and up together."""

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def phi3_hf(once_per_run) -> Path:
    """A Hugging Face folder."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return once_per_run("phi3", lambda out: save_tiny_phi3(out / "hf")) / "hf"


@pytest.fixture(scope="session")
def phi3_bases(phi3_hf, once_per_run) -> Path:
    """A folder with each of ``PHI3``."""
    pytest.importorskip("onnxruntime_genai")
    return once_per_run("phi3-bases", lambda out: build(phi3_hf, out, *PHI3))


@pytest.fixture(scope="session")
def granite_hf(once_per_run) -> Path:
    """A Granite 4 without experts, whose gate and up are ``shared_mlp.input_linear``."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return once_per_run("granite", lambda out: save_tiny_granite(out / "hf")) / "hf"


@pytest.fixture(scope="session")
def granite_bases(granite_hf, once_per_run) -> Path:
    pytest.importorskip("onnxruntime_genai")
    return once_per_run("granite-bases", lambda out: build(granite_hf, out, "fp32"))


def save_tiny_phi3(folder: Path) -> None:
    import torch
    import transformers

    save_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.Phi3Config(**SIZES, original_max_position_embeddings=64)
    transformers.Phi3ForCausalLM(config).save_pretrained(folder)


def save_tiny_granite(folder: Path) -> None:
    import torch
    import transformers

    save_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.GraniteMoeHybridConfig(
        **SIZES,
        shared_intermediate_size=72,
        num_local_experts=0,
        num_experts_per_tok=0,
        layer_types=["attention"] * 2,
        position_embedding_type="rope",
        mamba_n_heads=12,
        mamba_d_head=16,
    )
    transformers.GraniteMoeHybridForCausalLM(config).save_pretrained(folder)
