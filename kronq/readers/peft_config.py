"""PEFT's ``adapter_config.json``: kinds that kronq reads, and the rank and α of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.json_file import read_json
from kronq.model.layer_expressions import NameMatcher

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""File names in a PEFT folder."""

_UNSUPPORTED_SETTINGS = (
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "arrow_config",
    "alora_invocation_tokens",
)
"""Settings that change ΔW, or add weights beside it, in ways the normal form does not have."""


@dataclass(frozen=True)
class PeftConfig:
    """Settings of one adapter.

    Attributes:
        settings: By their names in PEFT.
        path: The file they were read from, for errors; None in memory.
    """

    settings: Mapping[str, Any]
    path: Path | None = None

    @property
    def kind(self) -> str:
        """``peft_type``, as ``LORA``; in memory it is a member of PEFT's enumeration."""
        kind = self.settings.get("peft_type")
        return str.__str__(kind) if isinstance(kind, str) else repr(kind)

    @property
    def base_model(self) -> str | None:
        name = self.settings.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    @property
    def modules_to_save(self) -> list[str]:
        """Ends of the paths of modules that were trained whole."""
        given = self.settings.get("modules_to_save") or []
        if not isinstance(given, list | tuple | set) or not all(isinstance(m, str) for m in given):
            raise FormatError(
                "modules_to_save is no list of names", path=self.path, found=repr(given)[:80]
            )
        return sorted(given)

    @property
    def trains_biases(self) -> bool:
        return self.settings.get("bias") not in (None, False, "none")

    @property
    def ties_modules(self) -> bool:
        """Whether modules that were trained whole are tied to others, which are saved as well."""
        return bool(self.modules_to_save and self.settings.get("ensure_weight_tying"))

    def alpha(self, layer: str) -> float:
        """Returns a layer's α."""
        alpha: float = self._value(
            "alpha_pattern", "alpha" if self.kind in ("LOKR", "LOHA") else "lora_alpha", layer
        )
        return alpha

    def rank(self, layer: str) -> int:
        """Returns a layer's rank."""
        rank: int = self._value("rank_pattern", "r", layer)
        return rank

    def number(self, name: str) -> Any:
        """Returns a setting that is a number.

        Raises:
            FormatError: It is none.
        """
        return self._number(self.settings.get(name), name)

    def check_supported(self) -> None:
        """Refuses settings with which ΔW would be something else.

        Raises:
            UnsupportedError: Another ``peft_type``, DoRA, biases, trained full modules, or an
                initialization that moved a part of the base into the factors.
        """
        if "fine_tune_type" in self.settings and "peft_type" not in self.settings:
            raise UnsupportedError(
                "an adapter of mlx-lm, which kronq does not read",
                path=self.path,
                expected="a PEFT folder",
                hint="PEFT's tensors are these transposed, and its alpha is scale times rank",
            )
        refused = [name for name in _UNSUPPORTED_SETTINGS if self.settings.get(name)]
        if refused:
            raise UnsupportedError(
                "the adapter uses settings that kronq does not handle",
                path=self.path,
                found=listing(refused),
                hint="train without, or put the whole adapter into its base with PEFT's "
                "merge_and_unload",
            )

    def _value(self, pattern: str, key: str, layer: str) -> Any:
        """Returns a layer's value, matched as PEFT's ``get_pattern_key`` does, or the default."""
        patterns = self.settings.get(pattern) or {}
        if not isinstance(patterns, dict):
            raise FormatError(
                f"{pattern} is not layer → number", path=self.path, found=repr(patterns)
            )
        for expression, value in patterns.items():
            try:
                matches = self._matcher.matches(expression, layer)
            except ValueError as error:
                raise FormatError(
                    f"{pattern} has a bad expression: {error}", path=self.path
                ) from None
            if matches:
                return self._number(value, f"{pattern}[{expression!r}]")
        return self._number(self.settings.get(key), key)

    @cached_property
    def _matcher(self) -> NameMatcher:
        return NameMatcher(peft=True)

    def _number(self, value: Any, name: str) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (isinstance(value, int) and abs(value) > 2**63):
            raise FormatError(f"{name} is not a number", path=self.path, found=repr(value)[:80])
        return value


def read_config(folder: Path) -> PeftConfig:
    """Reads a PEFT folder's config.

    Raises:
        FormatError: It is missing, or not a JSON object.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FormatError(
            f"no {CONFIG} beside the weights",
            path=folder,
            hint="alpha and the ranks are in it: copy it from where the adapter was trained",
        )
    return PeftConfig(read_json(path), path)
