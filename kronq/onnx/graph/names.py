"""Layers found by name.

Names are compared in a canonical form. When the two sides differ by a prefix (``model.`` missing,
``base_model.`` too many) one rule must serve *every* layer of the adapter, so that a match is
never a guess about one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kronq.onnx.graph.sites import Site

FUSED = "qkv_proj"
_SEPARATORS = re.compile(r"[^0-9A-Za-z]+")


def canonical(name: str) -> str:
    """``/model/layers.0/attn/q_proj`` and ``model.layers.0.self_attn.q_proj`` made alike."""
    text = _SEPARATORS.sub("_", name).strip("_").lower()
    return f"_{text}_".replace("_self_attn_", "_attn_").strip("_")


@dataclass(frozen=True)
class _Rule:
    """What to take off the front of a layer's name, and what to put there."""

    drop: str = ""
    add: str = ""

    def apply(self, layer: str) -> str | None:
        return self.add + layer[len(self.drop) :] if layer.startswith(self.drop) else None


Places = Mapping[str, tuple[Site, ...]]
"""Layer → the nodes that multiply by its weight: one, unless the model uses the layer again."""


@dataclass(frozen=True)
class Found:
    """Where one layer goes.

    Attributes:
        how: ``name``, ``position`` or ``map``; ``ambiguous`` or ``missing`` where it has no place.
        sites: Its nodes; none when it has no place.
        candidates: The places it may have, when that is not certain.
    """

    how: str
    sites: tuple[Site, ...] = ()
    candidates: tuple[Site, ...] = ()


def by_name(layers: Sequence[str], sites: Sequence[Site]) -> dict[str, Found]:
    index: dict[str, list[Site]] = {}
    for site in sites:
        for key in {canonical(name) for name in site.names}:
            index.setdefault(key, []).append(site)
    _split_fused(index)
    names = {name: canonical(name) for name in layers}
    rules = _rules(names, index)
    best = max(rules.values(), default=0)
    chosen = [rule for rule, count in rules.items() if count == best]
    if _Rule() in chosen:
        chosen = [_Rule()]
    placed = [_place(names, rule, index) for rule in chosen] or [{}]
    found = {}
    for name in names:
        options = {site: None for places in placed for site in places.get(name, ())}
        weights = {(id(site.weight), site.part) for site in options}
        if len(weights) > 1:
            found[name] = Found("ambiguous", candidates=tuple(options))
        elif name in placed[0]:
            found[name] = Found("name", placed[0][name])
        else:
            found[name] = Found("missing")
    return found


def _split_fused(index: dict[str, list[Site]]) -> None:
    """Finds q, k and v where onnxruntime-genai has made one MatMul of them."""
    for key in [key for key in index if key.endswith(FUSED)]:
        for part in "qkv":
            alone = f"{key.removesuffix(FUSED)}{part}_proj"
            if alone not in index:
                index[alone] = [replace(site, part=part) for site in index[key]]


def _rules(layers: Mapping[str, str], index: Mapping[str, Sequence[Site]]) -> dict[_Rule, int]:
    """Prefix rules, each with the number of layers it finds a name for."""
    counts: dict[_Rule, int] = {}
    tails = {
        key: {tail for site in sites for name in site.names for tail in _tails(name, site.part)}
        for key, sites in index.items()
    }
    for name, layer in layers.items():
        mine = {_Rule()} if layer in index else set()
        own = _tails(name)
        for key, others in tails.items():
            if key in own and key != layer:
                rule = _Rule(drop=layer.removesuffix(key))
            elif layer in others and key.endswith(f"_{layer}"):
                rule = _Rule(add=key.removesuffix(layer))
            else:
                continue
            # A number in a prefix tells layers apart: it is never to be dropped or made up.
            if not re.search(r"\d", rule.drop + rule.add):
                mine.add(rule)
        for rule in mine:
            counts[rule] = counts.get(rule, 0) + 1
    return counts


def _tails(name: str, part: str | None = None) -> set[str]:
    """What may be left of a name when modules in front are dropped, in canonical form.

    Only whole modules are: ``o_proj`` does not become ``proj``. A flattened name (LyCORIS) does not
    tell where its modules end.
    """
    modules = [m for m in (canonical(piece) for piece in re.split(r"[./:]+", name)) if m]
    if len(modules) == 1:
        modules = modules[0].split("_")
    if part is not None:
        modules[-1] = modules[-1].replace(FUSED, f"{part}_proj")
    return {"_".join(modules[i:]) for i in range(len(modules))}


def _place(
    names: Mapping[str, str], rule: _Rule, index: Mapping[str, list[Site]]
) -> dict[str, tuple[Site, ...]]:
    keys = {name: rule.apply(key) for name, key in names.items()}
    return {name: tuple(index[key]) for name, key in keys.items() if key and key in index}
