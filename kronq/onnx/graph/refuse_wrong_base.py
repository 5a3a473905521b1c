"""Refuses a base that an adapter does not belong to: unmatched layers, other shapes, overlaps."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.fit import fit_adapter
from kronq.model.layer_names import describe_names, name_template, natural_key
from kronq.onnx.graph.layer_match import LayerMatch, Matches
from kronq.onnx.graph.match_by_name import canonical
from kronq.onnx.graph.sites import Site

_EXAMPLES = 3
"""Missing layers that an error shows; the table of matches shows all."""


def refuse_unmatched(
    matches: Mapping[str, LayerMatch], sites: Sequence[Site], integer_types: Sequence[str] = ()
) -> None:
    """Refuses a base in which a layer of the adapter has no match, or more than one.

    Args:
        matches: As ``find_matches`` returns them.
        sites: The base's linear layers.
        integer_types: Operator types of the base that take no adapter, for the message.

    Raises:
        MismatchError: Layers are missing (three are shown) or ambiguous.
    """
    ambiguous = {name: match for name, match in matches.items() if match.how == "ambiguous"}
    missing = [name for name, match in matches.items() if match.how == "missing"]
    if ambiguous:
        raise _ambiguous_error(ambiguous, missing, len(matches))
    if missing:
        raise _missing_error(missing, len(matches), sites, integer_types)


def fit_to_base(adapter: Adapter, matches: Matches) -> Adapter:
    """Returns the adapter in the base's shapes; raw factors are cropped to them.

    Raises:
        MismatchError: A layer has another shape than the base's weight, or two layers overlap in
            one weight.
    """
    shapes = {name: _shape_in_base(name, matches[name][0], adapter) for name in adapter}
    fitted = fit_adapter(adapter, shapes, {name: matches[name][0].label for name in adapter})
    _refuse_overlaps(fitted, matches)
    return fitted


def _ambiguous_error(
    ambiguous: Mapping[str, LayerMatch], missing: Sequence[str], total: int
) -> MismatchError:
    kinds: dict[str, list[str]] = {}
    for name in sorted(ambiguous, key=natural_key):
        kinds.setdefault(name_template(name), []).append(name)
    text = "; ".join(
        f"{describe_names(names)}: {' or '.join(s.label for s in ambiguous[names[0]].candidates)}"
        + (f" (for {names[0]})" if len(names) > 1 else "")
        for names in kinds.values()
    )
    return MismatchError(
        f"{len(ambiguous)} of {total} adapted layers fit the base in more than one way",
        found=text + (f"; no place for {', '.join(_examples(missing))}" if missing else ""),
        expected="one place for each layer",
        hint="{mapping} of layers to nodes settles it: one layer of each kind is enough "
        "where the base has no names; {match_table} shows the table",
    )


def _missing_error(
    missing: Sequence[str], total: int, sites: Sequence[Site], integer_types: Sequence[str]
) -> MismatchError:
    known = {canonical(name): name for site in sites for name in site.names[::-1]}

    def with_nearest(name: str) -> str:
        near = difflib.get_close_matches(canonical(name), known, 2, 0.5)
        return name + (f" (nearest: {', '.join(known[key] for key in near)})" if near else "")

    if integer_types:
        kinds = " and ".join(sorted(set(integer_types)))
        hint = f"adapters do not go beside {kinds}: quantize the base to QDQ, or its weights only"
    elif not sites:
        hint = "the base has no MatMul or Gemm with a constant weight"
    else:
        hint = "wrong base model? or give {mapping}; {match_table} shows the table"
    return MismatchError(
        f"{len(missing)} of {total} adapted layers have no place in the base",
        found="; ".join(_examples(missing, with_nearest)),
        hint=hint,
    )


def _examples(names: Sequence[str], describe: Callable[[str], str] = str) -> list[str]:
    """Returns a few names, of different kinds where there are any, and the count of the others."""
    firsts: dict[str, str] = {}
    for name in names:
        firsts.setdefault(name_template(name), name)
    chosen = [*dict.fromkeys([*firsts.values(), *names])][:_EXAMPLES]
    rest = len(names) - len(chosen)
    return [describe(name) for name in chosen] + ([f"and {rest} more"] if rest else [])


def _shape_in_base(name: str, site: Site, adapter: Adapter) -> tuple[int, int]:
    """Returns (d_out, d_in) of a layer's own part of its site.

    In a fused weight k and v are equal, and no larger than q.

    Raises:
        MismatchError: The layer's d_out cannot be that of q, k or v.
    """
    if site.part is None:
        return site.shape
    delta = adapter[name]
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


def _refuse_overlaps(layers: Mapping[str, Delta], matches: Matches) -> None:
    """Refuses two layers of one weight that overlap, or disagree on where q and k end."""
    placed: dict[int, dict[str | None, str]] = {}
    for name, delta in layers.items():
        site = matches[name][0]
        neighbours = placed.setdefault(id(site.node), {})
        for part, other in neighbours.items():
            sizes = {_key_size(site, delta), _key_size(matches[other][0], layers[other])}
            if part == site.part or None in (part, site.part) or len(sizes) != 1:
                raise MismatchError(
                    "two layers of the adapter do not go together in one weight of the base",
                    layer=name,
                    found=f"{other!r} goes to {site.label!r} too",
                    hint="wrong base model?",
                )
        neighbours[site.part] = name


def _key_size(site: Site, delta: Delta) -> float:
    """Returns the outputs of k (and of v) in a fused weight, by those that this layer has."""
    d_out = delta.shape[0]
    return (site.shape[0] - d_out) / 2 if site.part == "q" else d_out
