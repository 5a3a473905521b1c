"""Paths of known models' layers: where a flattened name had dots, and convolutions' kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise, product

from kronq.model.flat_names import flatten
from kronq.model.layer_names import MAX_NAME
from kronq.readers.known_layers import (
    CONVOLUTIONS,
    FLUX,
    FRONTS,
    HUNYUAN,
    IMAGE,
    LANGUAGE,
    Kernel,
)

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class KnownLayer:
    """A layer of a known model.

    Attributes:
        path: Its module's path, with ``%s`` for each number.
        kernel: Empty for a linear layer; None for a convolution whose kernel differs between
            models.
        image: Whether the model is one of images or videos; no front stands before its path.
    """

    path: str
    kernel: Kernel | None
    image: bool


def restore_dots(flat: str, *, hunyuan: bool = False) -> str | None:
    """Returns the module path of a known model that was flattened to ``flat``.

    Args:
        flat: Without the front of a flattened key.
        hunyuan: Whether the model is HunyuanVideo by its makers, some of whose names are those of
            Flux when they are flattened.

    Returns:
        The path; None where the table has none, or more than one.
    """
    if "_" not in flat:
        return flat  # nothing could have been a dot
    found = {path for path, _ in _known(flat, hunyuan)}
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=2**14)
def known_layer(path: str, *, hunyuan: bool = False) -> KnownLayer | None:
    """Returns what is known of a module path, or of a name that was flattened."""
    candidates = _known(flatten(path), hunyuan)
    found = [layer for known, layer in candidates if path in (known, flatten(known))]
    return found[0] if len({layer.kernel for layer in found}) == 1 else None


def _known(flat: str, hunyuan: bool) -> Iterator[tuple[str, KnownLayer]]:
    """Yields the paths that the table has for a flattened name."""
    if len(flat) > MAX_NAME:
        return  # no model's: taking fronts off a long one takes for ever
    rests, fronts = [(flat, "")], []
    while rests:  # every way to take modules off the front
        rest, front = rests.pop()
        fronts.append((rest, front))
        rests += [
            (rest[len(name) + 1 :], f"{front}{name}.")
            for name in FRONTS
            if rest.startswith(f"{name}_")
        ]
    for rest, front in fronts:
        numbers = _NUMBER.findall(rest)
        for layer in _table(hunyuan).get(_NUMBER.sub("#", rest), ()):
            if not (front and layer.image):
                yield front + layer.path % tuple(numbers), layer


@cache
def _table(hunyuan: bool) -> dict[str, list[KnownLayer]]:
    """Returns flattened path, its numbers as ``#`` → the layers that have it."""
    sections: list[tuple[tuple[str, ...], Kernel | None, bool]] = [
        (LANGUAGE, (), False),
        ((*IMAGE, *(HUNYUAN if hunyuan else FLUX)), (), True),
    ]
    sections += [(templates, kernel, True) for kernel, templates in CONVOLUTIONS]
    table: dict[str, list[KnownLayer]] = {}
    for templates, kernel, image in sections:
        for path in (path for template in templates for path in _expand(template)):
            layer = KnownLayer(_NUMBER.sub("#", path).replace("#", "%s"), kernel, image)
            known = table.setdefault(_NUMBER.sub("#", flatten(path)), [])
            if layer not in known:
                known.append(layer)
    return table


def _expand(template: str) -> list[str]:
    """Returns the paths of a template: ``a.{b,c{d,e}}`` stands for three."""
    start = template.find("{")
    if start < 0:
        return [template]
    depth, cuts = 0, [start]
    for i in range(start, len(template)):
        depth += (template[i] == "{") - (template[i] == "}")
        if depth == 0 or (depth == 1 and template[i] == ","):
            cuts.append(i)
        if depth == 0:
            break
    choices = [template[a + 1 : b] for a, b in pairwise(cuts)]
    inner = [each for choice in choices for each in _expand(choice)]
    tails = _expand(template[cuts[-1] + 1 :])
    return [template[:start] + each + tail for each, tail in product(inner, tails)]
