"""Refuses a base that an adapter does not belong to: unmatched layers, other shapes, overlaps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

from kronq.errors import MismatchError, Names
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.fit import fit_adapter
from kronq.model.layer_names import describe_names, name_template, natural_key
from kronq.onnx.graph.fit_kernels import fit_kernels
from kronq.onnx.graph.layer_match import LayerMatch, Matches, label_of
from kronq.onnx.graph.match_by_name import canonical
from kronq.onnx.graph.naming_families import may_differ_in_order
from kronq.onnx.graph.sites import Site, parts_fit

_EXAMPLES = 3
"""Missing layers that an error shows; the table of matches shows all."""

_MIXED = re.compile(r"(?:^|[._])(?:query_key_value|[wW]?qkv|c_attn)$")
"""Fused layers whose rows are in another order in each model."""


def refuse_unmatched(
    matches: Mapping[str, LayerMatch],
    sites: Sequence[Site],
    integer_types: Sequence[str] = (),
    base_model: str | None = None,
) -> None:
    """Refuses a base in which a layer of the adapter has no match, or more than one.

    Args:
        matches: As ``find_matches`` returns them.
        sites: The base's linear layers.
        integer_types: Operator types of the base that take no adapter, for the message.
        base_model: Name of the base that the adapter was made for, for the message.

    Raises:
        MismatchError: Layers are missing (its line shows three, ``found`` has all) or ambiguous.
    """
    ambiguous = {name: match for name, match in matches.items() if match.how == "ambiguous"}
    missing = [name for name, match in matches.items() if match.how == "missing"]
    if ambiguous:
        raise _ambiguous_error(ambiguous, missing, len(matches))
    if missing:
        raise _missing_error(missing, len(matches), sites, integer_types, base_model)


def fit_to_base(adapter: Adapter, matches: Matches) -> Adapter:
    """Returns the adapter in the base's shapes; raw factors are cropped to them.

    Raises:
        MismatchError: A layer has another shape or kernel than the base's weight, or two layers
            overlap in one weight.
    """
    shapes = {name: _shape_in_base(name, matches[name], adapter) for name in adapter}
    fitted = fit_adapter(adapter, shapes, {name: label_of(matches[name]) for name in adapter})
    fitted = fit_kernels(fitted, matches)
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
    missing: Sequence[str],
    total: int,
    sites: Sequence[Site],
    integer_types: Sequence[str],
    base_model: str | None,
) -> MismatchError:
    known = {canonical(name): name for site in sites for name in site.names[::-1]}

    def with_nearest(name: str) -> str:
        near = difflib.get_close_matches(canonical(name), known, 1, 0.5)
        return name + (f" (nearest: {', '.join(known[key] for key in near)})" if near else "")

    if integer_types:
        kinds = " and ".join(sorted(set(integer_types)))
        hint = f"adapters do not go beside {kinds}: quantize the base to QDQ, or its weights only"
    elif any(_MIXED.search(name) for name in missing):
        hint = "{mapping} of it to a list of places divides its rows, where these are those of q, "
        hint += "then k, then v; GPT-NeoX, Falcon, BLOOM and InternLM mix them"
    elif may_differ_in_order(missing, sites):
        hint = (
            "the base has other names than this family of image models, and rows may be in another "
            "order (scale and shift of Flux's last modulation are); {only} takes the other layers, "
            "or give {mapping} for layers that you know to be in the same"
        )
    elif not sites:
        hint = "the base has no MatMul, Gemm or Conv with a constant weight"
    elif len(missing) < total:
        hint = (
            "wrong base model? if it is a part of the right one, {only} takes the adapter's part; "
            "or give {mapping}; {match_table} shows the table"
        )
    else:
        hint = "wrong base model? or give {mapping}; {match_table} shows the table"
    return MismatchError(
        f"{len(missing)} of {total} adapted layers have no place in the base",
        found=Names(missing, short="; ".join(_examples(missing, with_nearest))),
        expected=base_model and f"{base_model}, which the adapter was made for",
        hint=hint,
        code="layers-not-in-base",
    )


def _examples(names: Sequence[str], describe: Callable[[str], str] = str) -> list[str]:
    """Returns a few names, of different kinds where there are any, and the count of the others."""
    firsts: dict[str, str] = {}
    for name in names:
        firsts.setdefault(name_template(name), name)
    chosen = [*dict.fromkeys([*firsts.values(), *names])][:_EXAMPLES]
    rest = len(names) - len(chosen)
    return [describe(name) for name in chosen] + ([f"and {rest} more"] if rest else [])


def _shape_in_base(name: str, sites: Sequence[Site], adapter: Adapter) -> tuple[int, int]:
    """Returns (d_out, d_in) of a layer: all of a site, its own part of one, or several together.

    Raises:
        MismatchError: The layer's d_out cannot be that of its part.
    """
    site = sites[0]
    if site.part is None:
        return max(s.share[1] if s.share else s.shape[0] for s in sites), site.shape[1]
    if site.part in ("gate", "up"):
        return site.shape[0] // 2, site.shape[1]
    delta = adapter[name]
    fits = parts_fit({site.part: delta.shape[0]}, site.shape[0])
    if adapter.origin.cropped_by_base or not fits:
        raise MismatchError(
            "the layer's place in the base's fused weight is not certain",
            layer=name,
            found=f"{list(delta.shape)} in the adapter",
            expected=f"{site.part} of the {list(site.shape)} at {site.label!r}",
            hint="build the base with q, k and v apart, as kronq base does",
        )
    return delta.shape[0], site.shape[1]


def _refuse_overlaps(layers: Mapping[str, Delta], matches: Matches) -> None:
    """Refuses two layers of one weight that overlap, or disagree on where q and k end."""
    placed: dict[int, dict[str, Site]] = {}
    for name, delta in layers.items():
        for site in {id(s.node): s for s in matches[name]}.values():
            neighbours = placed.setdefault(id(site.node), {})
            for other, theirs in neighbours.items():
                if not _go_together(site, delta, theirs, layers[other]):
                    raise MismatchError(
                        "two layers of the adapter do not go together in one weight of the base",
                        layer=name,
                        found=f"{other!r} goes to {site.label!r} too",
                        hint="wrong base model?",
                    )
            neighbours[name] = site


def _go_together(site: Site, delta: Delta, other: Site, others: Delta) -> bool:
    if site.part is None or other.part in (None, site.part):
        return False
    sizes = {site.part: delta.shape[0], str(other.part): others.shape[0]}
    return parts_fit(sizes, site.shape[0])
