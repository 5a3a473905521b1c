"""Where layers go when the base has no names for them: by shape and place in the graph.

Layers of one kind (``model.layers.{}.mlp.down_proj``) must be all the base's of one kind of place,
in order: one in each block. Places are of one kind when their shapes are, those of the layers that
read the same input, and, where two of these look alike (k and v), what comes after them. Nothing
is taken that another kind of place would suit as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from kronq.model.adapter import Adapter
from kronq.model.layer_names import name_template, natural_key
from kronq.onnx.graph.sites import Site

READERS = {
    "q_proj": 3,
    "k_proj": 3,
    "v_proj": 3,
    "query": 3,
    "key": 3,
    "value": 3,
    "gate_proj": 2,
    "up_proj": 2,
    "o_proj": 1,
    "out_proj": 1,
    "down_proj": 1,
    "dense": 1,
}
"""How many linear layers read the input of a layer so named: q, k and v share theirs."""

_DEPTH = 3

Kind = tuple[object, ...]


def by_position(
    adapter: Adapter, sites: Sequence[Site], pinned: Mapping[str, Site]
) -> dict[str, list[Site]]:
    """Every layer's possible places: one, if it is certain.

    Args:
        adapter: The layers, with their shapes.
        sites: The base's linear layers, in the order of the graph.
        pinned: Places that are known already; one in a block tells the kind of all.
    """
    kinds = _kinds(sites)
    groups: dict[str, list[str]] = {}
    for name in sorted(adapter, key=natural_key):
        groups.setdefault(name_template(name), []).append(name)
    options = {
        group: [
            kind
            for kind, places in kinds.items()
            if _suits(group, names, kind, places, adapter) and _agrees(names, places, pinned)
        ]
        for group, names in groups.items()
    }
    _eliminate(options)
    return {
        name: [kinds[kind][i] for kind in options[group]]
        for group, names in groups.items()
        for i, name in enumerate(names)
    }


def _kinds(sites: Sequence[Site]) -> dict[Kind, list[Site]]:
    """Places of one kind, in the order of the graph; a weight that is used twice counts once."""
    once = list({id(site.weight): site for site in sites[::-1]}.values())[::-1]
    readers: dict[int, list[Site]] = {}
    for site in once:
        readers.setdefault(id(site.node.inputs[0]), []).append(site)
    kinds: dict[Kind, list[Site]] = {}
    for site in once:
        beside = readers[id(site.node.inputs[0])]
        alike = [other for other in beside if other.shape == site.shape]
        # Their order must be the same in every block, by what becomes of them, to be told apart.
        compared = alike if len(alike) > 1 else []
        after = tuple(_after(other.node.outputs[0], _DEPTH) for other in compared)
        kind = (site.shape, tuple(sorted(o.shape for o in beside)), alike.index(site), after)
        kinds.setdefault(kind, []).append(site)
    return kinds


def _after(value: ir.Value, depth: int) -> tuple[str, ...]:
    """The operators that a value goes through next, up to another layer, in a fixed order."""
    told = []
    for use in value.uses():
        node = use.node
        last = depth == 1 or node.op_type in ("MatMul", "Gemm", "MatMulNBits")
        behind = () if last else tuple(_after(out, depth - 1) for out in node.outputs)
        told.append(f"{node.op_type} {use.idx} {behind}")
    return tuple(sorted(told))


def _suits(
    group: str, names: Sequence[str], kind: Kind, places: Sequence[Site], adapter: Adapter
) -> bool:
    """Whether a kind of layer can be this kind of place: as many, numbered from 0, as large."""
    if len(names) != len(places):
        return False
    if len(names) > 1 and names != [group.replace("{}", str(i)) for i in range(len(names))]:
        return False
    beside = kind[1]
    readers = READERS.get(group.rsplit(".", 1)[-1])
    if readers is not None and isinstance(beside, tuple) and len(beside) != readers:
        return False
    return all(
        adapter.fitted(name, site.shape) is not None
        for name, site in zip(names, places, strict=True)
    )


def _agrees(names: Sequence[str], places: Sequence[Site], pinned: Mapping[str, Site]) -> bool:
    """Whether this kind of place is what is known of these layers, and of no others."""
    weights = {id(site.weight): name for name, site in pinned.items()}
    for name, site in zip(names, places, strict=True):
        if name in pinned and pinned[name].weight is not site.weight:
            return False
        if weights.get(id(site.weight), name) != name:
            return False
    return True


def _eliminate(options: dict[str, list[Kind]]) -> None:
    """What is certain for one kind of layer is no place for another."""
    settled: set[str] = set()
    while True:
        certain = [g for g, kinds in options.items() if len(kinds) == 1 and g not in settled]
        if not certain:
            return
        settled.add(certain[0])
        (kind,) = options[certain[0]]
        for group, kinds in options.items():
            if group != certain[0] and kind in kinds:
                kinds.remove(kind)
