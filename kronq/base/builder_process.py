"""The process that runs onnxruntime-genai's builder, with what it does not read right mended.

A script, run by its path: it imports nothing of kronq.

transformers 5 keeps the rotary settings of each kind of layer apart, where the builder reads one
set (Gemma 3 stops it), and lets every layer of a model slide whose config has a window and no
``layer_types`` (Mistral, Phi 3), where the builder writes full attention.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"
_TYPES = ("default", "linear")
"""Kinds of rotary positions that ``mend_gemma3`` and ``mend_config`` know."""


def main(hf: str, out: str, precision: str, provider: str, cache: str, *options: str) -> None:
    """Builds a model folder; the arguments are those of the builder's command line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from onnxruntime_genai.models import builder

    place = (precision, provider, cache)
    extra = builder.parse_extra_options("", hf, out, *place, list(options))
    details = extra.get("hf_details")
    if details is not None:
        mend_config(details["hf_config"].get_text_config())
    mend_gemma3(builder)
    builder.create_model("", hf, out, *place, **extra)


def _end_with_parent() -> None:
    """Ends this process once its stdin does: when kronq is done, or was killed."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def mend_config(config: Any) -> None:
    """Changes a model's (text) config in place to what the builder reads.

    Args:
        config: A ``transformers.PretrainedConfig``.

    Raises:
        NotImplementedError: Its kinds of layers have rotary positions that the builder cannot mix.
    """
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "layer_types", None) is None:
        config.layer_types = [SLIDING] * config.num_hidden_layers
    kinds = getattr(config, "rope_parameters", None)
    if not isinstance(kinds, dict) or not {FULL, SLIDING} <= kinds.keys():
        return
    if config.model_type.startswith("gemma4"):
        return  # its builder reads each kind's
    full, local = kinds[FULL], kinds[SLIDING]
    if full != local and not config.model_type.startswith("gemma3"):
        raise NotImplementedError(f"rotary positions of two kinds of layers in {config.model_type}")
    if {_type(full), _type(local)} - {*_TYPES}:
        raise NotImplementedError(f"{_type(full)} and {_type(local)} rotary positions in one model")
    config.rope_parameters = {**full, "rope_type": _type(full)}
    config.rope_theta = full["rope_theta"]
    config.rope_local_base_freq = local["rope_theta"]
    config.rope_local_factor = _factor(local)


def mend_gemma3(builder: ModuleType) -> None:
    """Gives Gemma 3's local layers their own factor: the builder stretches theirs like the rest."""

    class Gemma3Model(builder.Gemma3Model):  # type: ignore[name-defined, misc]
        def __init__(self, config: Any, *args: Any) -> None:
            self._local_factor = getattr(config, "rope_local_factor", 1.0)
            super().__init__(config, *args)

        def make_rotary_embedding_caches_from_scratch(self) -> Any:
            if hasattr(self, "cos_cache_local_name"):  # set when the caches of all others are made
                self.rope_attrs["rescale_factors"] = self._local_factor
            return super().make_rotary_embedding_caches_from_scratch()

    builder.Gemma3Model = Gemma3Model  # type: ignore[attr-defined]


def _type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", "default"))


def _factor(rope: Mapping[str, Any]) -> float:
    return float(rope["factor"]) if _type(rope) == "linear" else 1.0


if __name__ == "__main__":
    main(*sys.argv[1:])
