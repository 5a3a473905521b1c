"""Files of PEFT's tensors without a config, as programs write that generate adapters.

Ranks come from the tensors. α is in no tensor: it is asked for, or is in a config beside the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, listing
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors
from kronq.readers.lycoris_keys import is_lycoris
from kronq.readers.options import Options
from kronq.readers.peft_config import CONFIG, PeftConfig, read_config
from kronq.readers.peft_names import PREFIX

_LORA = re.compile(r".+\.lora_[AB](\.[^.]+)?\.weight")
_LOKR = re.compile(r"(?P<layer>.+)\.lokr_(?P<part>w[12](_[ab])?|t2)(\.[^.]+)?")


def is_bare(path: Path) -> bool:
    """Tells whether a path is a safetensors file of LoRA or LoKr with PEFT's names."""
    return path.suffix == ".safetensors" and path.is_file() and _has_names(open_tensors(path))


def _has_names(file: Tensors) -> bool:
    names = file.entries
    prefixed = any(
        PREFIX in name and (_LORA.fullmatch(name) or _LOKR.fullmatch(name)) for name in names
    )
    return prefixed or (any(map(_LORA.fullmatch, names)) and not is_lycoris(names))


def bare_config(file: Tensors, options: Options) -> PeftConfig:
    """Returns the config beside the file, or what its tensors say in its place.

    Raises:
        FormatError: There is no config, and α is not given; or the tensors do not tell a rank.
    """
    assert file.path is not None  # noqa: S101
    if (file.path.parent / CONFIG).exists():
        return read_config(file.path.parent)
    if options.alpha is None and options.scale_rule != "one":
        raise FormatError(
            "PEFT's tensors without their config, which has alpha",
            path=file.path,
            expected=f"{CONFIG} beside it, or alpha",
            hint="give lora_alpha, or LoKr's alpha, of the training: {alpha=16}",
        )
    settings: dict[str, Any] = {"peft_type": "LORA"}
    if any(map(_LOKR.fullmatch, file.entries)):
        settings = {"peft_type": "LOKR", "r": _rank_of_lokr(file, options)}
    settings["use_dora"] = any("lora_magnitude_vector" in name for name in file.entries)
    return PeftConfig(settings)


def _rank_of_lokr(file: Tensors, options: Options) -> int:
    """Returns the one rank of LoKr's layers, which also those of whole factors divide α by.

    Raises:
        FormatError: Layers have several ranks, or none has one.
    """
    ranks: set[int] = set()
    for name, entry in file.entries.items():
        match = _LOKR.fullmatch(name)
        if match and match["part"].endswith("_b"):
            ranks.add(entry.shape[0])
    if len(ranks) != 1 and options.scale_rule not in ("lycoris", "one"):
        raise FormatError(
            "the tensors do not tell the rank that alpha is divided by",
            path=file.path,
            found=_found(ranks),
            expected=f"one rank, or {CONFIG} beside the file",
            hint="{scale_rule=one} if the factors are ΔW without a scale",
        )
    return max(ranks, default=1)


def _found(ranks: Collection[int]) -> str:
    return f"ranks {listing(map(str, sorted(ranks)))}" if ranks else "whole factors alone"
