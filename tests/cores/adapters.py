"""LoRA-XS folders and bases, as its own code and transformers write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.cores.weights import REFERENCE, base_weights

Weights = dict[str, np.ndarray]
ALPHA = 12


def write_base(folder: Path, weights: Weights | None = None, *, shards: int = 1) -> Path:
    """Writes weights as the safetensors of a Hugging Face folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    tensors = {f"{n}.weight": w for n, w in (weights or base_weights()).items()}
    tensors["model.norm.weight"] = np.ones(128, np.float32)
    tensors["model.embed_tokens.weight"] = np.ones((50, 128), np.float32)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    files = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def sklearn_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer → LoRA-XS's B and A, as scikit-learn made them."""
    stored = np.load(REFERENCE)
    return {name: (stored[f"{name}.B"], stored[f"{name}.A"]) for name in base_weights()}


def write_lora_xs(
    folder: Path,
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
    *,
    name: str = "{}_lora_latent_mapping.weight",
    seed: int = 0,
    size: float = 1e-3,
) -> Weights:
    """Writes a LoRA-XS folder; returns layer → ΔW, multiplied out here.

    R's values have no structure; after short training they are about as large as ``size`` is here.
    """
    folder.mkdir(parents=True)
    draws = np.random.RandomState(100 + seed)
    tensors, deltas = {}, {}
    for layer, (b, a) in (pairs or sklearn_pairs()).items():
        rank = b.shape[1]
        r = (size * draws.normal(size=(rank, rank))).astype(np.float32)
        prefix = "base_model.model."
        tensors[f"{prefix}{layer}.lora_B.weight"] = np.ascontiguousarray(b)
        tensors[f"{prefix}{layer}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[prefix + name.format(layer)] = r
        deltas[layer] = ALPHA / rank * b.astype(np.float64) @ r.astype(np.float64) @ a
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"],
        "base_model_name_or_path": "tiny",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    settings = {"r_squared": True, "svd": {"n_iter": 10, "random_state": 42, "rank": rank}}
    (folder / "reconstr_config.json").write_text(json.dumps(settings))
    return deltas


def total_error(found: dict[str, np.ndarray], wanted: Weights) -> float:
    """‖ΔW − found‖ / ‖ΔW‖ over all layers."""
    assert found.keys() == wanted.keys()
    error = sum(np.linalg.norm(found[n] - wanted[n]) ** 2 for n in wanted)
    return float(np.sqrt(error / sum(np.linalg.norm(w) ** 2 for w in wanted.values())))
