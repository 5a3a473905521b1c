"""Naming families of image models: two programs' names for the same layers, in different order.

Black Forest Labs' ``final_layer.adaLN_modulation`` and diffusers' ``norm_out.linear`` have one
shape, and hold scale and shift in opposite order. Neither shapes nor ΔW tell, so such adapters are
matched by position only where the base's own names are of the same family. Layers whose rows are in
the same order are found by both names: ``family_names.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kronq.model.flat_names import strip_prefix
from kronq.onnx.graph.sites import Site

_FAMILIES = {
    "diffusers": r"(single_)?transformer_blocks|(down|up)_blocks|mid_block|norm_out",
    "BFL": r"(double|single)_blocks|final_layer|(time|vector|guidance|img|txt)_in",
    "LDM": r"(input|output)_blocks|middle_block|time_embed|label_emb",
    "SD3": r"joint_blocks|x_embedder_proj|context_embedder_proj",
}
"""Family → modules that only its names have."""
_MARKS = {
    family: re.compile(rf"(?:^|[./_])(?:{words})(?=[./_]\w)") for family, words in _FAMILIES.items()
}


def naming_families(names: Iterable[str]) -> set[str]:
    """Returns the families that names are of; none where they are of no known one."""
    stripped = [strip_prefix(name) for name in names]
    return {family for family, mark in _MARKS.items() if any(map(mark.search, stripped))}


def may_differ_in_order(layers: Iterable[str], sites: Sequence[Site]) -> bool:
    """Tells whether layers are of a family that the base's own names do not say.

    Args:
        layers: Names of the adapter's layers.
        sites: The base's layers; all names in their graphs are read.
    """
    own = naming_families(layers)
    if not own:
        return False
    graphs = {id(graph): graph for site in sites if (graph := site.node.graph) is not None}
    names = [name for site in sites for name in site.names]
    for graph in graphs.values():
        names += [str(name) for name in graph.initializers]
        names += [node.name or "" for node in graph]
    return not own & naming_families(names)
