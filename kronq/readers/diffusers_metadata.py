"""Settings that diffusers saves in a file's metadata, beside LoRA's tensors of no α."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kronq.errors import FormatError
from kronq.io.tensors import Tensors
from kronq.readers.peft_config import PeftConfig
from kronq.readers.scale_rule import ScaleRule

_FIELD = "lora_adapter_metadata"


@dataclass(frozen=True)
class SavedSettings:
    """PEFT's settings of each part of a pipeline: ``transformer`` → settings."""

    parts: Mapping[str, PeftConfig]

    @classmethod
    def of(cls, file: Tensors) -> SavedSettings:
        """Reads them; there are none in files of other trainers.

        Raises:
            FormatError: They are no JSON object.
        """
        text = file.metadata.get(_FIELD)
        if text is None:
            return cls({})
        try:
            saved = json.loads(text)
        except (ValueError, RecursionError):
            saved = None
        if not isinstance(saved, dict):
            raise FormatError(f"the metadata's {_FIELD} is no JSON object", path=file.path)
        parts: dict[str, dict[str, Any]] = {}
        for name, value in saved.items():
            part, _, setting = name.partition(".")
            parts.setdefault(part, {"peft_type": "LORA"})[setting] = value
        return cls({part: PeftConfig(settings, file.path) for part, settings in parts.items()})

    def alpha(self, key: str) -> tuple[float | None, ScaleRule]:
        """Returns the α of a layer's key, and its rule; None where α is the rank."""
        part, _, layer = key.partition(".")
        config = self.parts.get(part)
        if config is None or "lora_alpha" not in config.settings:
            return None, "lycoris"
        rule: ScaleRule = "rslora" if config.settings.get("use_rslora") else "lycoris"
        return config.alpha(layer), rule
