"""Adapters trained in a multimodal model, on a base that is its text half: beside PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kronq
from kronq.base.build import build_base
from kronq.calibration.torch_model import attach
from tests.tiny_llama import save_tokenizer

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime_genai")

IDS = list(range(10, 40))
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WRITTEN = "base_model.model.model.layers"
SOURCES = {
    "transformers from 4.52": "base_model.model.model.language_model.layers",
    "transformers before": "base_model.model.language_model.model.layers",
}


def train(model: Any, out: Path, **settings: Any) -> Any:
    """PEFT's model with a random adapter, which is saved as well."""
    config = peft.LoraConfig(r=4, lora_alpha=8, **settings)
    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(out)
    return adapted


def torch_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("targets", [TARGETS, ("q_proj", "v_proj"), ("q_proj", "lm_head")])
def test_names_with_the_text_model_inside(
    tiny_hf: Path, tiny_base: Path, tmp_path: Path, source: str, targets: tuple[str, ...]
) -> None:
    llama = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf).eval()
    wanted = torch_logits(train(llama, tmp_path / "a", target_modules=list(targets)))
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = {n.replace(WRITTEN, SOURCES[source]): t for n, t in load_file(file).items()}
    save_file(tensors, file)
    adapter = kronq.load(tmp_path / "a")
    kronq.export_onnx(adapter, tiny_base, tmp_path / "out", "branch")
    found = kronq.Session(tmp_path / "out", device="cpu").logits(IDS)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf).eval()
    with attach(plain, adapter):
        np.testing.assert_allclose(torch_logits(plain), wanted, atol=1e-4)


VISION = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "patch_size": 14}
TEXT = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
KINDS = ["sliding_attention", "full_attention"]
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "layer_types": KINDS}


def gemma3() -> Any:
    vision = {"model_type": "siglip_vision_model", "image_size": 28, "num_hidden_layers": 1}
    special = {"image_token_id": 5, "boi_token_id": 6, "eoi_token_id": 7}
    config = transformers.Gemma3Config(
        text_config=TEXT | GEMMA, vision_config=VISION | vision, mm_tokens_per_image=4, **special
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def qwen25_vl() -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "num_heads": 2, "out_hidden_size": 64}
    special = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7}
    config = transformers.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": rope},
        vision_config=VISION | vision,
        vision_end_token_id=8,
        **special,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


@pytest.mark.slow
@pytest.mark.parametrize("make", [gemma3, qwen25_vl])
def test_a_multimodal_model(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    save_tokenizer(tmp_path / "hf")
    model.save_pretrained(tmp_path / "hf")
    build_base(tmp_path / "hf", tmp_path / "base")
    layers = r".*language_model\.layers\..*(q_proj|v_proj|down_proj)"
    wanted = torch_logits(train(model, tmp_path / "a", target_modules=layers))
    adapter = kronq.load(tmp_path / "a")
    assert all(name.startswith("model.language_model.layers.") for name in adapter)
    kronq.export_onnx(adapter, tmp_path / "base", tmp_path / "out", "branch")
    found = kronq.Session(tmp_path / "out", device="cpu").logits(IDS)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
