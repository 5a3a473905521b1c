"""Layers that a PEFT file should have and lacks: PEFT warns of them, and runs another adapter."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

from kronq.errors import FormatError, KronqWarning, listing
from kronq.model.layer_names import natural_key
from kronq.model.name_expression import expand_name_expression
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_names import unwrap_name

_TOGETHER = (
    {"q_proj", "k_proj", "v_proj"},
    {"up_proj", "down_proj"},
    {"fc1", "fc2"},
    {"query", "key", "value"},
    {"q_lin", "k_lin", "v_lin"},
    {"to_q", "to_k", "to_v"},
)
"""Modules of which no model has one without the others."""
_OPTIONAL = {"conv_shortcut", "to_add_out"}
"""Modules of image models that not every block has."""
_BLOCK = re.compile(r"(?P<front>.*?)(?<![^.])(?P<number>\d+)\.")


def refuse_missing_layers(
    config: PeftConfig, layers: Collection[str], path: Path | None = None
) -> None:
    """Refuses a file that lacks layers, by its config's ``target_modules`` or by their siblings.

    Lists of modules serve several models, so a kind of layer that the whole file lacks is a
    warning where nothing shows that the model has it.

    Raises:
        FormatError: Layers are missing.
    """
    targets = config.settings.get("target_modules")
    if isinstance(targets, str):  # kronq writes an expression for the whole paths of all layers
        targets = expand_name_expression(targets, limit=1000 + 10 * len(layers))
    if isinstance(targets, list | tuple | set | frozenset):
        names = [unwrap_name(name) for name in targets if isinstance(name, str)]
        _check_targets(names, layers, path)
        if all(name in layers for name in names):
            return  # every layer is listed by its whole path
    if config.settings.get("exclude_modules"):
        return
    missing = _missing_siblings(layers)
    if config.settings.get("layers_to_transform") is None:
        missing += _missing_blocks(layers)
    if missing:
        raise FormatError(
            "layers are missing that their siblings have",
            path=path,
            found=listing(missing),
            hint="if none was trained there, list the paths of all layers in target_modules",
        )


def _check_targets(names: Sequence[str], layers: Collection[str], path: Path | None) -> None:
    """Refuses, or warns of, target modules that no layer of the file is."""
    endings = {layer[start:] for layer in layers for start in _starts(layer)}
    lacking = [name for name in names if name not in endings]
    if not lacking:
        return
    present = set(names) - set(lacking)
    certain = [
        name
        for name in lacking
        if re.search(r"\.\d+\.", name)
        or any(name in kinds and kinds & present for kinds in _TOGETHER)
    ]
    if certain or not present:
        raise FormatError(
            "no layer of the file is one of these target_modules",
            path=path,
            found=listing(certain or lacking),
            hint="if the base has no such module, take it out of target_modules in the config",
        )
    warnings.warn(
        KronqWarning(
            f"{path or 'the adapter'}: no layer is one of these target_modules: "
            f"{listing(lacking)}: the base has none, or the file has lost them"
        ),
        stacklevel=2,
    )


def _starts(layer: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer(r"\.", layer))]


def _missing_siblings(layers: Collection[str]) -> list[str]:
    """Returns modules that a parent lacks and most parents of its kind have.

    Two or more last parents that lack the same are left out: layers of some models share the keys
    and values of an earlier one.
    """
    kinds: dict[str, dict[str, set[str]]] = {}
    for layer in sorted(layers, key=natural_key):
        parent, _, module = layer.rpartition(".")
        if module in _OPTIONAL:
            continue
        template = re.sub(r"\d+", "{}", parent)
        kinds.setdefault(template, {}).setdefault(parent, set()).add(module)
    missing: list[str] = []
    for parents in kinds.values():
        counts = Counter(frozenset(modules) for modules in parents.values())
        usual = max(counts, key=lambda modules: (counts[modules], len(modules)))
        lacking = [parent for parent, modules in parents.items() if modules < usual]
        if len(lacking) < 2 or lacking != list(parents)[-len(lacking) :]:
            missing += [f"{p}.{m}" for p in lacking for m in usual - parents[p]]
    return missing


def _missing_blocks(layers: Collection[str]) -> list[str]:
    """Returns numbered blocks that have no layer, between blocks that have.

    A model may have a kind of layer in some blocks only, as those with attention in every fourth:
    three blocks or more that are missing at equal distances say nothing, and neither do more than
    half as many as there are.
    """
    numbers: dict[str, set[int]] = {}
    for layer in layers:
        match = _BLOCK.match(layer)
        if match and len(match["number"]) < 6:
            numbers.setdefault(match["front"], set()).add(int(match["number"]))
    missing: list[str] = []
    for front, present in numbers.items():
        if max(present) - min(present) >= 2 * len(present):
            continue
        gaps = sorted(set(range(min(present), max(present))) - present)
        distances = {b - a for a, b in pairwise(gaps)}
        regular = len(gaps) > 2 and len(distances) == 1 and distances != {1}
        if 2 * len(gaps) <= len(present) and not regular:
            missing += [f"{front}{number}" for number in gaps]
    return missing
