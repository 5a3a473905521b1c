"""A model's config, checked for what would load a program or fill memory in transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kronq import limits
from kronq.errors import FormatError, StrPath

OWN_OPERATORS = ("eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
"""Implementations that transformers has itself; another one is a package, or a repository."""
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_COUNT = re.compile(r".*(layers?|blocks?|depths?|heads?|experts|labels)")
"""Names of what a model has so many of, or lists of such numbers."""


def refuse_foreign_operators(config: Mapping[str, Any], path: StrPath) -> None:
    """Refuses a config that has transformers download a compiled kernel, or open a package's.

    Raises:
        FormatError: It names one, in the config or in a part of it.
    """
    for name, value in _entries(config):
        if not _IMPLEMENTATION.fullmatch(name):
            continue
        for each in value.values() if isinstance(value, dict) else (value,):
            if each is not None and each not in OWN_OPERATORS:
                raise FormatError(
                    f"{name!r} names operators that transformers does not have itself",
                    path=path,
                    found=f"{each!r:.80}",
                    expected=", ".join(OWN_OPERATORS),
                    hint="delete the entry",
                    code="library",
                )


def check_counts(config: Mapping[str, Any], path: StrPath) -> None:
    """Refuses a config, or a part of it, with more layers, heads, experts or labels than allowed.

    Raises:
        FormatError: There are more than ``limits.LAYERS`` of one of them.
    """
    for name, value in _entries(config):
        if _COUNT.fullmatch(name):
            limits.LAYERS.check(sum(n for n in _listed(value) if isinstance(n, int)), path)


def without_operators(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config whose operators are transformers' own, in its parts too."""
    return {
        name: without_operators(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if not _IMPLEMENTATION.fullmatch(name)
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields every entry of a config and of its parts."""
    for name, value in config.items():
        yield name, value
        for part in _listed(value):
            if isinstance(part, dict):
                yield from _entries(part)
