"""PEFT's settings in a safetensors file's metadata, where diffusers looks for them.

diffusers reads no adapter_config.json: without these it takes α for the rank. It takes off the
front that ``load_lora_adapter`` is given as ``prefix``, or that names a part of a pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_FIELD = "lora_adapter_metadata"
_SETTINGS = (
    *("r", "alpha", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_dora"),
    *("decompose_both", "decompose_factor", "use_effective_conv2d"),
)


def diffusers_metadata(*parts: tuple[Mapping[str, Any], str]) -> dict[str, str]:
    """Returns the file's metadata.

    Args:
        parts: Settings as in adapter_config.json, and the front of the keys that they are for.
    """
    saved = {
        f"{front}{name}": config[name]
        for config, front in parts
        for name in _SETTINGS
        if name in config
    }
    return {"format": "pt", _FIELD: json.dumps(saved, sort_keys=True)}
