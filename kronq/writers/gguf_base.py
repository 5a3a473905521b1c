"""The base of a GGUF adapter: architecture, tensor names, and the order of q's and k's rows.

llama.cpp names tensors by architecture (the gguf package has its table). For some architectures
convert_hf_to_gguf.py also reorders the rows of q and k: llama.cpp rotates neighbouring rows,
Hugging Face the two halves of a head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, UnsupportedError
from kronq.io.gguf_file import is_gguf, open_gguf, read_values
from kronq.io.json_file import read_json

REORDERED: Mapping[str, tuple[str, ...]] = {
    "llama": ("LlamaForCausalLM", "MistralForCausalLM"),
    "arcee": ("ArceeForCausalLM",),
    "granite": ("GraniteForCausalLM",),
    "olmo": ("OlmoForCausalLM",),
    "smollm3": ("SmolLM3ForCausalLM",),
}
"""llama.cpp's name → names in config.json, of architectures whose q and k are reordered."""

AS_STORED: Mapping[str, tuple[str, ...]] = {
    "apertus": ("ApertusForCausalLM",),
    "cohere2": ("Cohere2ForCausalLM",),
    "command-r": ("CohereForCausalLM",),
    "exaone4": ("Exaone4ForCausalLM",),
    "gemma": ("GemmaForCausalLM",),
    "gemma2": ("Gemma2ForCausalLM",),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    "olmo2": ("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    "phi2": ("PhiForCausalLM",),
    "phi3": ("Phi3ForCausalLM",),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen2moe": ("Qwen2MoeForCausalLM",),
    "qwen2vl": ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
    "qwen3": ("Qwen3ForCausalLM",),
    "qwen3moe": ("Qwen3MoeForCausalLM",),
    "seed_oss": ("SeedOssForCausalLM",),
    "starcoder2": ("Starcoder2ForCausalLM",),
}
"""The same of architectures whose rows stay in their order."""

_TIED = ("command-r", "cohere2", "gemma", "gemma2", "gemma3")
"""Architectures whose lm_head is the embedding unless config.json says otherwise."""

_TEXT_HALF = re.compile(r"^(model\.language_model\.(?=layers)|language_model\.(?=model))")
_EXPECTED = "a folder with config.json, or a .gguf file"


@dataclass(frozen=True)
class GgufBase:
    """What a GGUF adapter has to know of its base.

    Attributes:
        path: Where it was read, for errors.
        architecture: llama.cpp's name of it.
        blocks: Number of layers.
        heads: Query heads and key heads.
        tied: Whether lm_head is the embedding, which has no place for a LoRA.
        shapes: Tensor → (d_out, d_in); empty where they are not known.
    """

    path: Path
    architecture: str
    blocks: int
    heads: tuple[int, int]
    tied: bool
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def row_order(self, tensor: str, rows: int) -> NDArray[np.int64] | None:
        """Returns which row of Hugging Face's each row is; None where they stay."""
        kind = tensor.removesuffix(".weight").rpartition(".")[2]
        if self.architecture not in REORDERED or kind not in ("attn_q", "attn_k"):
            return None
        heads = self.heads[kind == "attn_k"]
        return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def text_half_name(layer: str) -> str:
    """Returns a layer's name in a model of text alone: that of a multimodal one has a prefix."""
    return _TEXT_HALF.sub(lambda match: "model." if match[0].startswith("model") else "", layer)


def read_base(path: str | None) -> GgufBase:
    """Reads what a GGUF adapter needs of its base.

    Args:
        path: A folder with its config.json, or its GGUF file.

    Raises:
        UnsupportedError: None is given, or its architecture is not in the tables.
        FormatError: The file is damaged.
    """
    if path is not None and is_gguf(path):
        base = _read_gguf(Path(path))
    elif path is not None and (Path(path) / "config.json").is_file():
        base = _read_config(Path(path) / "config.json")
    else:
        raise UnsupportedError(
            "llama.cpp's tensor names depend on the base, and it is not given"
            if path is None
            else "no base that tells llama.cpp's tensor names",
            path=path,
            expected=_EXPECTED,
            hint="{base_model} with the base" if path is None else _path_hint(Path(path)),
        )
    if base.architecture not in {**REORDERED, **AS_STORED}:
        raise UnsupportedError(
            "an architecture whose tensors in llama.cpp kronq does not know",
            path=base.path,
            found=base.architecture,
            expected=", ".join(sorted({**REORDERED, **AS_STORED})),
            hint="{to=lora}, then llama.cpp's convert_lora_to_gguf.py",
        )
    return base


def _path_hint(path: Path) -> str | None:
    if not path.exists():
        return "no such file or folder"
    return f"{path.parent} has one" if (path.parent / "config.json").is_file() else None


def _read_gguf(path: Path) -> GgufBase:
    reader = open_gguf(path)
    values = read_values(reader, path)
    shapes = {
        tensor.name: (int(tensor.shape[1]), int(tensor.shape[0]))
        for tensor in reader.tensors
        if len(tensor.shape) == 2
    }
    architecture = str(values.get("general.architecture"))
    heads = values.get(f"{architecture}.attention.head_count")
    return _checked(
        path,
        architecture,
        values.get(f"{architecture}.block_count"),
        (heads, values.get(f"{architecture}.attention.head_count_kv", heads)),
        "output.weight" not in shapes,
        shapes,
    )


def _read_config(path: Path) -> GgufBase:
    config = read_json(path)
    known = {name: arch for arch, names in {**REORDERED, **AS_STORED}.items() for name in names}
    names = config.get("architectures")
    name = str(names[0] if isinstance(names, list) and names else None)
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, **text}
    heads = config.get("num_attention_heads")
    architecture = known.get(name, name)
    return _checked(
        path,
        architecture,
        config.get("num_hidden_layers"),
        (heads, config.get("num_key_value_heads") or heads),
        bool(config.get("tie_word_embeddings", architecture in _TIED)),
        {},
    )


def _checked(
    path: Path,
    architecture: str,
    blocks: Any,
    heads: tuple[Any, Any],
    tied: bool,
    shapes: Mapping[str, tuple[int, int]],
) -> GgufBase:
    """Returns the base, whose counts must be whole numbers where its architecture is known."""
    known = architecture in {**REORDERED, **AS_STORED}
    counts = {"layers": blocks, "heads": heads[0], "key heads": heads[1]}
    wrong = [name for name, n in counts.items() if not isinstance(n, int) or n < 1]
    if known and wrong:
        raise FormatError(
            f"no usable number of {wrong[0]}", path=path, found=counts[wrong[0]], expected="one"
        )
    return GgufBase(path, architecture, blocks, heads, tied, shapes)
