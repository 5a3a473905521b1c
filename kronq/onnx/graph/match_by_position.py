"""Matches layers to sites by shape and place in the graph, where the base has no names.

A site that has a name is never taken: its name is not the layer's, and a shape that fits is no
proof of the contrary.

Layers of one kind (``model.layers.{}.mlp.down_proj``) must take all sites of one kind, in order:
one in each block. Sites are of one kind when they agree in their own shape, in the shapes of the
layers that read the same input, and, where two of these look alike (k and v), in the operators
that read their outputs. A match is certain only if no other kind of site would suit as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from kronq.model.adapter import Adapter
from kronq.model.layer_names import name_template, natural_key
from kronq.onnx.graph.fit_kernels import kernel_fits
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
"""Linear layers that read the input of a layer of this name: q, k and v share theirs."""

_GENERATED = frozenset(
    (  # noqa: SIM905 - a word list is read more easily
        "addmm aten bmm cast const constant dense dequantizelinear dq fused fusion gemm graph "
        "identity init initializer input kernel linear matmul matmuladdfusion matmulnbits mm node "
        "onnx op output param permute quant quantized quantizelinear tensor token transpose "
        "transposed val value weight weights"
    ).split()
)
"""Words of names that exporters make up, such as ``node_MatMul_12`` and ``onnx::MatMul_50``."""

_HASH = re.compile(r"(?=[a-f]*\d)[0-9a-f]{8,}")

_DEPTH = 3
"""Operators after a layer that are compared."""


@dataclass(frozen=True)
class SiteKind:
    """The properties that sites of one kind share.

    Attributes:
        shape: (d_out, d_in).
        siblings: Shapes of all layers that read the same input, this one included.
        index: Position among those of them that have this shape.
        following: Operators after each of those, where there is more than one.
    """

    shape: tuple[int, int]
    siblings: tuple[tuple[int, int], ...]
    index: int
    following: tuple[tuple[str, ...], ...]


def match_by_position(
    adapter: Adapter, sites: Sequence[Site], pinned: Mapping[str, Site]
) -> dict[str, list[Site]]:
    """Returns every layer's possible sites: a single one where the match is certain.

    Args:
        adapter: The layers, with their shapes.
        sites: The base's linear layers, in the order of the graph.
        pinned: Layer → site, for layers that are matched already; one of them in one block
            settles the kind of all, in a base with names too.
    """
    by_kind = _group_sites(sites)
    layers: dict[str, list[str]] = {}
    for name in sorted(adapter, key=natural_key):
        layers.setdefault(name_template(name), []).append(name)
    options = {
        layer_kind: [
            kind
            for kind, own in by_kind.items()
            if (any(name in pinned for name in names) or not any(map(_has_name, own)))
            and _suits(layer_kind, names, kind, own, adapter)
            and _agrees(names, own, pinned)
        ]
        for layer_kind, names in layers.items()
    }
    _eliminate(options)
    return {
        name: [by_kind[kind][i] for kind in options[layer_kind]]
        for layer_kind, names in layers.items()
        for i, name in enumerate(names)
    }


def _has_name(site: Site) -> bool:
    """Tells whether a name of the site says more than its operator and a number."""
    words = {
        word
        for name in site.names
        for word in re.findall(r"[a-z]{2,}", _HASH.sub("", name.lower()))
    }
    return not words <= _GENERATED


def _group_sites(sites: Sequence[Site]) -> dict[SiteKind, list[Site]]:
    """Groups sites by kind, in the order of the graph; a weight that is used twice counts once."""
    once = list({id(site.weight): site for site in sites[::-1]}.values())[::-1]
    readers: dict[int, list[Site]] = {}
    for site in once:
        readers.setdefault(id(site.node.inputs[0]), []).append(site)
    by_kind: dict[SiteKind, list[Site]] = {}
    for site in once:
        siblings = readers[id(site.node.inputs[0])]
        alike = [other for other in siblings if other.shape == site.shape]
        # Layers that look alike differ in their order alone, which must be that of every block.
        compared = alike if len(alike) > 1 else []
        following = tuple(_operators_after(o.node.outputs[0], _DEPTH) for o in compared)
        shapes = tuple(sorted(other.shape for other in siblings))
        kind = SiteKind(site.shape, shapes, alike.index(site), following)
        by_kind.setdefault(kind, []).append(site)
    return by_kind


def _operators_after(value: ir.Value, depth: int) -> tuple[str, ...]:
    """Returns the operators that a value goes through, up to the next layer, in a fixed order."""
    operators = []
    for use in value.uses():
        node = use.node
        last = depth == 1 or node.op_type in ("MatMul", "Gemm", "MatMulNBits")
        following = () if last else tuple(_operators_after(o, depth - 1) for o in node.outputs)
        operators.append(f"{node.op_type} {use.idx} {following}")
    return tuple(sorted(operators))


def _suits(
    layer_kind: str, names: Sequence[str], kind: SiteKind, sites: Sequence[Site], adapter: Adapter
) -> bool:
    """Tells whether layers can have sites of this kind: as many, numbered from 0, as large."""
    if len(names) != len(sites):
        return False
    if len(names) > 1 and names != [layer_kind.replace("{}", str(i)) for i in range(len(names))]:
        return False
    readers = READERS.get(layer_kind.rsplit(".", 1)[-1])
    if readers is not None and len(kind.siblings) != readers:
        return False
    return all(
        adapter.fit_layer(name, site.shape) is not None and kernel_fits(adapter[name], site)
        for name, site in zip(names, sites, strict=True)
    )


def _agrees(names: Sequence[str], sites: Sequence[Site], pinned: Mapping[str, Site]) -> bool:
    """Tells whether these sites contradict no pinned match of these layers, or of others."""
    owners = {id(site.weight): name for name, site in pinned.items()}
    for name, site in zip(names, sites, strict=True):
        if name in pinned and pinned[name].weight is not site.weight:
            return False
        if owners.get(id(site.weight), name) != name:
            return False
    return True


def _eliminate(options: dict[str, list[SiteKind]]) -> None:
    """Removes, in place, kinds of sites that are certain for one kind of layer from all others."""
    settled: set[str] = set()
    while True:
        certain = [g for g, kinds in options.items() if len(kinds) == 1 and g not in settled]
        if not certain:
            return
        settled.add(certain[0])
        (kind,) = options[certain[0]]
        for layer_kind, kinds in options.items():
            if layer_kind != certain[0] and kind in kinds:
                kinds.remove(kind)
