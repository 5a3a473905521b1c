"""Which graphs can run rows of different lengths in one batch, with caches in place."""

from __future__ import annotations

from pathlib import Path

from kronq.engine.cache_buffers import PAST
from kronq.errors import UnsupportedError, listing
from kronq.onnx.base_folder import load_base
from kronq.onnx.genai_config import cache_window
from kronq.onnx.model_files import ModelFiles

ATTENTION = "GroupQueryAttention"
TOKENS = "input_ids"
MASK = "attention_mask"
POSITIONS = "position_ids"
LOGITS = "logits"


def check_graph(files: ModelFiles) -> None:
    """Refuses a model whose rows cannot have different lengths.

    Every cache has to be read by GroupQueryAttention alone, which takes the length of each row and
    writes its new keys and values where the old ones lie.

    Raises:
        UnsupportedError: It is no such model.
    """
    graph = load_base(files.model).graph
    names = {value.name for value in graph.inputs if value.name}
    missing = {TOKENS, MASK} - names
    if missing or LOGITS not in {value.name for value in graph.outputs}:
        raise _refusal(files.model, f"no {', no '.join(sorted(missing)) or LOGITS}")
    caches = [value for value in graph.inputs if (value.name or "").startswith(PAST)]
    others = {use.node.op_type for cache in caches for use in cache.uses()} - {ATTENTION}
    if others or not caches:
        raise _refusal(files.model, listing(others) if others else "no KV cache")
    if cache_window(files.genai):
        raise _refusal(files.model, "a windowed KV cache")


def _refusal(path: Path, found: object) -> UnsupportedError:
    return UnsupportedError(
        "this model does not batch rows of different lengths",
        path=path,
        found=found,
        expected=f"a language model with {ATTENTION} and whole KV caches",
        hint="{build_base} makes one of a Hugging Face folder or a GGUF file",
    )
