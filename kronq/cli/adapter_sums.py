"""Adapters to run with, each with a strength, and those that are added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from kronq.cli import shared
from kronq.errors import KronqError
from kronq.io.hub import is_hub_path
from kronq.io.input_path import check_input

F = TypeVar("F", bound=Callable[..., Any])
_SLASHES = 3
"""Of hf://owner/name, behind which the first @ begins a revision."""
Strengths = dict[str, float]
"""Path → strength of adapters that are added up."""


def strength_options(command: F) -> F:
    """Adds ``--adapter``, which may have a strength, and ``--strength``."""
    for add in (
        click.option(
            "--strength",
            type=float,
            default=1.0,
            show_default=True,
            metavar="S",
            help="Of adapters without one of their own: 1 as trained, 0 none.",
        ),
        click.option(
            "--adapter",
            "adapters",
            multiple=True,
            metavar="[NAME=]PATH[@S]",
            help="An adapter for a model with slots: packed, a PEFT folder or an .onnx_adapter; "
            "@0.7 is its strength. Those of one NAME are added up.",
        ),
    ):
        command = add(command)
    return command


def adapter_sums(given: Sequence[str], strength: float) -> dict[str, Strengths]:
    """Reads ``[NAME=]PATH[@STRENGTH]``, those of one NAME as a sum.

    Args:
        given: The texts.
        strength: Strength of those that have none.

    Raises:
        NotFoundError: There is no such path.
        KronqError: Two files without a NAME have one name, or a path is given twice for one.
    """
    sums: dict[str, Strengths] = {}
    unnamed = set()
    for text in given:
        name, path = shared.split_name(text)
        path, own = _split_strength(path)
        check_input(path)
        if name is None:
            name = Path(path).resolve().stem
            if name in sums:
                raise shared.same_name(name)
            unnamed.add(name)
        elif name in unnamed:
            raise shared.same_name(name)
        if path in sums.setdefault(name, {}):
            raise KronqError("the same adapter is given twice", found=path)
        sums[name][path] = strength if own is None else own
    return sums


def add_up(sums: Iterable[Strengths]) -> Strengths:
    """Returns one sum of all.

    Raises:
        KronqError: A path is given twice.
    """
    total: Strengths = {}
    for each in sums:
        for path, strength in each.items():
            if path in total:
                raise KronqError("the same adapter is given twice", found=path)
            total[path] = strength
    return total


def _split_strength(text: str) -> tuple[str, float | None]:
    path, separator, number = text.rpartition("@")
    if not separator or Path(text).exists():
        return text, None
    try:
        strength = float(number)
    except ValueError:
        return text, None
    if is_hub_path(text) and path.count("/") == _SLASHES and "@" not in path:
        return text, None  # a revision
    if not math.isfinite(strength):
        raise KronqError("bad strength", found=repr(number), expected="a number, as @0.7")
    return path, strength
