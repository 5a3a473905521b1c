"""Matches layers to sites by name.

Names are compared in a canonical form. When the two sides differ by a prefix (``model.`` missing,
``base_model.`` too many), one rule must serve *every* layer of the adapter, so that no single
layer's match is a guess. A prefix is replaced by another only where both are wrappers: the text
half of a multimodal model is ``model.language_model.layers``, that of its graph ``model.layers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kronq.model.flat_names import strip_prefix
from kronq.onnx.graph.family_names import sites_by_family_names
from kronq.onnx.graph.fused_layers import fused_and_parts
from kronq.onnx.graph.layer_match import LayerMatch
from kronq.onnx.graph.sites import Site

_SEPARATORS = re.compile(r"[^0-9A-Za-z]+")

_ALIASES = {
    "_self_attn_": "_attn_",
    "_shared_mlp_": "_mlp_",  # Granite 4
    "_input_linear_": "_gate_up_proj_",
    "_output_linear_": "_down_proj_",
}
"""Modules that onnxruntime-genai's builder calls otherwise than transformers."""

_WRAPPERS = ("base_model", "language_model", "text_model", "model")
"""Modules around a whole language model; those of one half (encoder, vision_tower) are not here."""
_ONLY_WRAPPERS = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})_)*")

_Index = dict[str, list[Site]]
"""Canonical name → the sites of that name."""


def canonical(name: str) -> str:
    """Returns one spelling for ``/model/layers.0/attn/q_proj``, ``model.layers.0.attn.q_proj``."""
    text = f"_{_SEPARATORS.sub('_', strip_prefix(name)).strip('_').lower()}_"
    for other, own in _ALIASES.items():
        text = text.replace(other, own)
    return text.strip("_")


@dataclass(frozen=True)
class _PrefixRule:
    """A change to the front of every layer's name: ``drop`` is taken off, ``add`` is put there."""

    drop: str = ""
    add: str = ""

    @property
    def wraps(self) -> bool:
        """Whether it changes nothing but wrappers."""
        return all(_ONLY_WRAPPERS.fullmatch(prefix) for prefix in (self.drop, self.add))

    def apply(self, layer: str) -> str | None:
        return self.add + layer[len(self.drop) :] if layer.startswith(self.drop) else None


def match_by_name(layers: Sequence[str], sites: Sequence[Site]) -> dict[str, LayerMatch]:
    """Matches every layer to the sites of its name, under the prefix rule that serves most layers.

    Args:
        layers: Names of the adapter's layers.
        sites: The base's linear layers.

    Returns:
        Layer → its match; ``ambiguous`` where rules disagree or two weights share a name, and
        ``missing`` where no site has the name.
    """
    index = _index_names(sites)
    names = {layer: canonical(layer) for layer in layers}
    counts = _count_rules(names, index)
    best = max(counts.values(), default=0)
    rules = [rule for rule, count in counts.items() if count == best]
    if _PrefixRule() in rules:
        rules = [_PrefixRule()]
    matched = [_apply_rule(rule, names, index) for rule in rules] or [{}]
    return {layer: _combine([sites_of.get(layer, ()) for sites_of in matched]) for layer in names}


def _combine(alternatives: Sequence[tuple[Site, ...]]) -> LayerMatch:
    """Returns one layer's match, from what each rule found for it."""
    found = [{(id(s.weight), s.part): s.share for s in sites} for sites in alternatives if sites]
    if not found:
        return LayerMatch("missing")
    several = len(found[0]) > len({*found[0].values()})
    if several or any(weights.keys() != found[0].keys() for weights in found):
        options = dict.fromkeys(site for sites in alternatives for site in sites)
        return LayerMatch("ambiguous", candidates=tuple(options))
    return LayerMatch("name", next(sites for sites in alternatives if sites))


def _index_names(sites: Sequence[Site]) -> _Index:
    """Lists sites by canonical name.

    Fused weights and parts also by each other's names, those of image models by their families'.
    """
    index: _Index = {}
    for site in sites:
        for key in {canonical(name) for name in site.names}:
            index.setdefault(key, []).append(site)
    for key, others in list(fused_and_parts(index)):
        if others:
            index.setdefault(key, others)
    return _by_family_names(index) | index


def _by_family_names(index: _Index) -> _Index:
    """Lists sites by names of other families; two layers of one name there are ambiguous."""
    others: _Index = {}
    for name, sites in sites_by_family_names(index):
        known = others.setdefault(canonical(name), [])
        known += [site for site in sites if all(site.node is not k.node for k in known)]
    return {key: sites for key, sites in others.items() if sites}


def _count_rules(names: Mapping[str, str], index: _Index) -> dict[_PrefixRule, int]:
    """Counts, for every prefix rule, the layers whose name it turns into one of the index."""
    counts: dict[_PrefixRule, int] = {}
    tails = {
        key: {tail for site in sites for name in site.names for tail in _tails(name)}
        for key, sites in index.items()
    }
    keys_of: dict[str, list[str]] = {}
    for key, others in tails.items():
        for tail in others:
            keys_of.setdefault(tail, []).append(key)
    for layer, name in names.items():
        rules = {_PrefixRule()} if name in index else set()
        own, core = _tails(layer), _core(layer)
        related = [*keys_of.get(core, ()), *keys_of.get(name, ()), *sorted(own & index.keys())]
        for key in dict.fromkeys(related):
            others = tails[key]
            wrapped = _PrefixRule(name.removesuffix(core), key.removesuffix(core))
            if core in others and key != name and wrapped.wraps:
                rule = wrapped
            elif key in own and key != name:
                rule = _PrefixRule(drop=name.removesuffix(key))
            elif name in others and key.endswith(f"_{name}"):
                rule = _PrefixRule(add=key.removesuffix(name))
            else:
                continue
            # A number in a prefix identifies a block: it is never dropped or added.
            if not re.search(r"\d", rule.drop + rule.add):
                rules.add(rule)
        for rule in rules:
            counts[rule] = counts.get(rule, 0) + 1
    return counts


def _core(name: str) -> str:
    """Returns what is left of a name when the wrappers in front are dropped, in canonical form."""
    modules = _modules(name)
    if len(modules) == 1:
        return _ONLY_WRAPPERS.sub("", modules[0], count=1)
    first = next((i for i, module in enumerate(modules) if module not in _WRAPPERS), 0)
    return "_".join(modules[first:])


def _modules(name: str) -> list[str]:
    return [m for m in (canonical(piece) for piece in re.split(r"[./:]+", name)) if m]


def _tails(name: str) -> set[str]:
    """Returns what is left of a name when modules in front are dropped, in canonical form.

    Only whole modules are dropped: ``o_proj`` does not become ``proj``. A flattened name (LyCORIS)
    does not show where its modules end, so any word may be dropped there.
    """
    modules = _modules(name)
    if len(modules) == 1:
        modules = modules[0].split("_")
    return {"_".join(modules[i:]) for i in range(len(modules))}


def _apply_rule(
    rule: _PrefixRule, names: Mapping[str, str], index: _Index
) -> dict[str, tuple[Site, ...]]:
    matched = {}
    for layer, name in names.items():
        key = rule.apply(name)
        if rule.wraps and key not in index:
            key = name  # lm_head is outside of what wraps the layers
        if key in index:
            matched[layer] = tuple(index[key])
    return matched
