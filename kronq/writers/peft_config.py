"""Settings for PEFT's ``adapter_config.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kronq import limits
from kronq.errors import KronqError
from kronq.io.json_file import read_json
from kronq.model.adapter import Adapter
from kronq.model.name_expression import name_expression
from kronq.readers.peft_config import CONFIG
from kronq.writers.lora_factors import most_common

_CAUSAL_LM = re.compile(r"(model|transformer|gpt_neox)\.(layers|h)\.\d+\.|lm_head$|embed_out$")
"""Names of layers of transformers' causal language models; those without a head have no prefix."""


def common_settings(kind: str, adapter: Adapter, base_model: str | None) -> dict[str, Any]:
    """Returns the settings that LoKr and LoRA share.

    Args:
        kind: ``LOKR`` or ``LORA``.
        adapter: Gives layers, task type and base.
        base_model: Name of the base; that of the adapter's origin if None.
    """
    return {
        "peft_type": kind,
        "task_type": _task_type(adapter),
        "base_model_name_or_path": base_model or adapter.origin.base_model,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": _target_modules(list(adapter)),
    }


def _target_modules(names: list[str]) -> str | list[str]:
    """Returns exactly these layers, as one expression where that is shorter than their names.

    A list of last parts, as ``q_proj``, would select layers of the base that have no weights here.
    """
    expression = name_expression(names)
    shorter = len(expression) < min(len("".join(names)), limits.EXPRESSION.value)
    return expression if len(names) > 1 and shorter else names


def ranks_and_alphas(
    alpha_name: str, ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the most common rank and α, and patterns for the layers that differ.

    Args:
        alpha_name: Name of the setting: ``alpha`` or ``lora_alpha``.
        ranks: Layer → rank.
        alphas: Layer → α; PEFT's scale is α / rank.
    """
    rank, alpha = most_common(ranks.values()), most_common(alphas.values())
    return {
        "r": rank,
        alpha_name: alpha,
        "rank_pattern": {_exact_pattern(n): r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {_exact_pattern(n): a for n, a in alphas.items() if a != alpha},
    }


def _task_type(adapter: Adapter) -> str | None:
    """Returns the task type of the PEFT folder that was read, or the one that the names tell.

    ``AutoPeftModelForCausalLM`` asks for it. A packed file does not record it, but an adapter of
    another head has that head's weights in ``modules_to_save``, which kronq does not read.
    """
    origin = adapter.origin
    if origin.format != "peft" or origin.path is None:
        return "CAUSAL_LM" if all(map(_CAUSAL_LM.match, adapter)) else None
    folder = origin.path if origin.path.is_dir() else origin.path.parent
    try:
        config = read_json(folder / CONFIG)
    except KronqError:
        return None
    task = config.get("task_type")
    return task if isinstance(task, str) else None


def _exact_pattern(name: str) -> str:
    """Returns a pattern for one layer: without ``^`` PEFT matches the end of a path."""
    return "^" + re.escape(name)
