"""Names of tensors in PEFT files, and layers that a file should have and lacks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.model.layer_names import natural_key
from kronq.readers.peft_config import PeftConfig

PREFIX = "base_model.model."
"""Prefix of every tensor's name."""

_WRAPPER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Steps of a path that torch.compile, FSDP and activation checkpointing add."""
_PARALLEL = re.compile(rf"^(module\.)*({re.escape(PREFIX)})?(module\.)*")
"""``module.`` of DataParallel, around PEFT's model or the base."""
_BESIDE = ("non_lora_trainables.*", "trainable_params.*", "new_embeddings.*")
"""Weights that LLaVA, LongLoRA and vLLM's users keep in files of their own."""


def unwrap_name(tensor: str) -> str:
    """Returns a tensor's name without PEFT's prefix and without the steps of wrappers."""
    return _PARALLEL.sub("", _WRAPPER.sub("", tensor))


def refuse_weights_beside(folder: Path) -> None:
    """Refuses a folder in which other files hold weights that were trained with the adapter.

    Raises:
        UnsupportedError: There are some; all of them are named.
    """
    files = [file.name for pattern in _BESIDE for file in folder.glob(pattern)]
    if files:
        raise UnsupportedError(
            "trained weights beside the adapter, which kronq does not read",
            path=folder,
            found=listing(files),
            hint="put them into the base, and move the files elsewhere",
        )


def refuse_missing_layers(
    config: PeftConfig, layers: Collection[str], path: Path | None = None
) -> None:
    """Refuses a file that lacks layers which its config's ``target_modules`` name.

    Raises:
        FormatError: A name matches no layer, or single layers of a kind are not there.
    """
    targets = config.settings.get("target_modules")
    if isinstance(targets, list | tuple | set | frozenset):
        names = [unwrap_name(name) for name in targets if isinstance(name, str)]
        lacking = [n for n in names if not any(f".{layer}".endswith(f".{n}") for layer in layers)]
        if lacking:
            raise FormatError(
                "no layer of the file is one of these target_modules",
                path=path,
                found=listing(lacking),
                hint="if the base has no such module, take it out of target_modules in the config",
            )
        if all(name in layers for name in names):
            return  # every layer is listed by its whole path
    missing = _missing_siblings(layers)
    if missing and not config.settings.get("exclude_modules"):
        raise FormatError(
            "layers are missing that their siblings have",
            path=path,
            found=listing(missing),
            hint="if none was trained there, list the paths of all layers in target_modules",
        )


def _missing_siblings(layers: Collection[str]) -> list[str]:
    """Returns modules that a parent lacks and most parents of its kind have.

    Two or more last parents that lack the same are left out: layers of some models share the keys
    and values of an earlier one.
    """
    kinds: dict[str, dict[str, set[str]]] = {}
    for layer in sorted(layers, key=natural_key):
        parent, _, module = layer.rpartition(".")
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
