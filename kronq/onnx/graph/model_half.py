"""Halves of a model in graphs of their own: encoder and decoder, the towers of other media.

Where a graph is one half, exporters leave its name away: ``decoder.block.0.layer.0.q`` would find a
place at ``block.0.layer.0.q`` of the encoder. A layer of one half is matched to the other only by
a name that says so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from kronq.onnx.graph.layer_match import LayerMatch
from kronq.onnx.graph.sites import Site

ENCODER, DECODER, TEXT, TOWER = "encoder", "decoder", "text", "tower"
_TEXT = re.compile(r"(?:language_model|text_model|text_encoder)$")
_TOWER = re.compile(r"(?:vision|visual|audio)(?:_|$)")
_TOKENS = {"input_ids", "inputs_embeds"}
_MEDIA = {"pixel_values", "input_features", "input_values", "audio_features"}
_CROSS_ATTENTION = re.compile(r"encdecattention|encoder_attn|cross_?attn|cross_?attention", re.I)
_OF_ENCODER = re.compile(r"encoder_(?:hidden_states|outputs|attention_mask)")
_OF_GENERATION = re.compile(r"logits|present")


def refuse_other_half(
    matches: Mapping[str, LayerMatch], other: Collection[str]
) -> dict[str, LayerMatch]:
    """Takes away matches of layers that belong to another half than the graph is.

    Args:
        matches: Layer → its match, by whatever means but the user's map.
        other: As ``other_halves`` returns them.
    """
    return {
        layer: LayerMatch("missing")
        if (half := half_of(layer)) in other and not _all_say(half, match)
        else match
        for layer, match in matches.items()
    }


def half_of(name: str) -> str | None:
    """Returns the half that a layer's name says, its outermost module of the kind; or None."""
    return next(iter(_halves(name)), None)


def _halves(name: str) -> list[str]:
    """Returns all halves that modules of a name say, from the outermost on."""
    modules = [module for module in re.split(r"[./:]+", name.lower()) if module]
    if len(modules) == 1:  # flattened, as LyCORIS writes it
        modules = re.split(r"_(?!(?<=text_)(?:model|encoder)|(?<=language_)model)", modules[0])
    halves = (TOWER if _TOWER.match(m) else TEXT if _TEXT.match(m) else m for m in modules)
    return [half for half in halves if half in (ENCODER, DECODER, TEXT, TOWER)]


def _all_say(half: str | None, match: LayerMatch) -> bool:
    return all(
        any(half in _halves(name) for name in site.names)
        for site in (*match.sites, *match.candidates)
    )


def other_halves(sites: Sequence[Site]) -> tuple[str, ...]:
    """Returns the halves that the graph is not, by its inputs and outputs."""
    graphs = {id(graph): graph for site in sites if (graph := site.node.graph) is not None}
    inputs = {value.name or "" for graph in graphs.values() for value in graph.inputs}
    outputs = {value.name or "" for graph in graphs.values() for value in graph.outputs}
    names = (name for site in sites for name in site.names)
    if any(map(_OF_ENCODER.match, inputs)) or any(map(_CROSS_ATTENTION.search, names)):
        # A whole model has cross-attention as well, and its encoder's layers say what they are.
        return (ENCODER, TOWER) if inputs & _TOKENS else (ENCODER, TOWER, TEXT)
    if any(map(_OF_GENERATION.match, outputs)):
        return (TOWER,) if inputs & _TOKENS else ()
    if inputs & _TOKENS:
        return DECODER, TOWER
    return (DECODER, TEXT) if inputs & _MEDIA else ()
