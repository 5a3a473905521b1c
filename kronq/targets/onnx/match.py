"""Which layer of the adapter belongs to which linear layer of the base.

Names are compared in a canonical form. When the two sides differ by a prefix (``model.`` missing,
``base_model.`` too many) one rule must serve *every* layer of the adapter, so that a match is
never a guess about one of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kronq.adapter import Adapter
from kronq.delta import Delta
from kronq.errors import MismatchError
from kronq.targets.onnx.sites import Site

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


def match(layers: Iterable[str], sites: Sequence[Site]) -> Places:
    """Finds each layer's place in the base.

    Raises:
        MismatchError: Layers without a place (all are listed), or with more than one.
    """
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
    found = [_place(names, rule, index) for rule in chosen] or [{}]
    missing = [name for name in names if name not in found[0]]
    if missing:
        raise _missing(missing, len(names), sites)
    if any(_differ(found[0], other) for other in found[1:]):
        name = next(iter(names))
        raise MismatchError(
            "the adapter fits the base in more than one way",
            layer=name,
            found=", ".join(sorted(places[name][0].label for places in found)),
            expected="one place for each layer",
        )
    for name, places in found[0].items():
        if len({id(site.weight) for site in places}) > 1:
            raise MismatchError(
                "more than one weight of the base has this name",
                layer=name,
                found=", ".join(site.label for site in places),
            )
    return found[0]


def _split_fused(index: dict[str, list[Site]]) -> None:
    """Finds q, k and v where onnxruntime-genai has made one MatMul of them."""
    for key in [key for key in index if key.endswith(FUSED)]:
        for part in "qkv":
            alone = f"{key.removesuffix(FUSED)}{part}_proj"
            if alone not in index:
                index[alone] = [replace(site, part=part) for site in index[key]]


def fit(adapter: Adapter, places: Places) -> Adapter:
    """The adapter in the base's shapes; raw factors are cropped to them.

    Raises:
        MismatchError: A layer has another shape than the base's weight.
    """
    fitted = {}
    for name, delta in adapter.items():
        site = places[name][0]
        shape = site.shape
        if site.part is not None:
            shape = _part_shape(name, site, delta, adapter)
        if delta.shape != shape:
            if not (adapter.origin.cropped_by_base and may_crop(delta, shape)):
                raise MismatchError(
                    "the layer has another shape than the base's weight",
                    layer=name,
                    found=f"{list(delta.shape)} in the adapter",
                    expected=f"{list(shape)} at {site.label!r}",
                    hint="wrong base model?",
                )
            delta = replace(delta, shape=shape)
        fitted[name] = delta
    _check_apart(fitted, places)
    return replace(adapter, layers=fitted)


def _check_apart(layers: Mapping[str, Delta], places: Places) -> None:
    """Layers of one weight may not overlap, and must agree on where q ends and k ends.

    Raises:
        MismatchError: Two do not go together.
    """
    taken: dict[int, dict[str | None, str]] = {}
    for name, delta in layers.items():
        site = places[name][0]
        others = taken.setdefault(id(site.node), {})
        for part, other in others.items():
            sizes = {_key_size(site, delta), _key_size(places[other][0], layers[other])}
            if part == site.part or None in (part, site.part) or len(sizes) != 1:
                raise MismatchError(
                    "two layers of the adapter do not go together in one weight of the base",
                    layer=name,
                    found=f"{other!r} goes to {site.label!r} too",
                    hint="wrong base model?",
                )
        others[site.part] = name


def _key_size(site: Site, delta: Delta) -> float:
    """How many of a fused weight's outputs k has, and v: by what this layer has."""
    d_out = delta.shape[0]
    return (site.shape[0] - d_out) / 2 if site.part == "q" else d_out


def _part_shape(name: str, site: Site, delta: Delta, adapter: Adapter) -> tuple[int, int]:
    """The shape of q, k or v in a fused weight: k and v are equal, and no larger than q.

    Raises:
        MismatchError: The layer's own d_out cannot be one of them.
    """
    keys = _key_size(site, delta)
    queries = site.shape[0] - 2 * keys
    if adapter.origin.cropped_by_base or not (keys >= 1 and keys % 1 == 0 and queries >= keys):
        raise MismatchError(
            "the layer's place in the base's fused q, k and v is not certain",
            layer=name,
            found=f"{list(delta.shape)} in the adapter",
            expected=f"{site.part} of the {list(site.shape)} at {site.label!r}",
            hint="build the base with q, k and v apart, as kronq base does",
        )
    return delta.shape[0], site.shape[1]


def may_crop(delta: Delta, shape: tuple[int, int]) -> bool:
    """Whether B is what the paper's rule, ceil(d / a), makes of the base's shape."""
    return all(
        -(-size // a) == b for size, a, b in zip(shape, delta.a.shape, delta.b.shape, strict=True)
    )


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


def _differ(one: Places, other: Places) -> bool:
    return any({*one[name]} != {*other[name]} for name in one)


def _missing(missing: Sequence[str], total: int, sites: Sequence[Site]) -> MismatchError:
    known = {canonical(name): name for site in sites for name in site.names[::-1]}
    parts = []
    for count, name in enumerate(missing):
        # Looking for neighbours is slow, and after the first fifty nobody learns from them.
        near = difflib.get_close_matches(canonical(name), known, 2, 0.5) if count < 50 else []
        like = f" (nearest: {', '.join(known[key] for key in near)})" if near else ""
        parts.append(f"{name}{like}")
    if not sites:
        hint = "the base has no MatMul or Gemm with a constant weight"
    else:
        hint = "wrong base model?"
    return MismatchError(
        f"{len(missing)} of {total} adapted layers have no place in the base",
        found="; ".join(parts),
        hint=hint,
    )
