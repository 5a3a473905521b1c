"""Names that Black Forest Labs' code has for the layers of a diffusers Flux transformer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

_BLOCK = re.compile(
    r"(?P<front>(?:.*?_)??)(?P<kind>(?:single_)?transformer_blocks)_(?P<i>\d+)_(?P<rest>.+)"
)
_PROOFS = (
    "x_embedder",
    "context_embedder",
    "transformer_blocks_0_attn_add_q_proj",
    "single_transformer_blocks_0_proj_mlp",
)
"""Layers that a transformer has with those of BFL's blocks: other ones are not taken for Flux."""

_DOUBLE = {
    "img_mod.lin": ("norm1_linear",),
    "txt_mod.lin": ("norm1_context_linear",),
    "img_attn.qkv": ("attn_to_q", "attn_to_k", "attn_to_v"),
    "txt_attn.qkv": ("attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj"),
    "img_attn.proj": ("attn_to_out_0",),
    "txt_attn.proj": ("attn_to_add_out",),
    "img_mlp.0": ("ff_net_0_proj",),
    "img_mlp.2": ("ff_net_2",),
    "txt_mlp.0": ("ff_context_net_0_proj",),
    "txt_mlp.2": ("ff_context_net_2",),
}
_SINGLE = {
    "modulation.lin": ("norm_linear",),
    "linear1": ("attn_to_q", "attn_to_k", "attn_to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
_OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed_timestep_embedder_linear_1",
    "time_in.out_layer": "time_text_embed_timestep_embedder_linear_2",
    "vector_in.in_layer": "time_text_embed_text_embedder_linear_1",
    "vector_in.out_layer": "time_text_embed_text_embedder_linear_2",
    "guidance_in.in_layer": "time_text_embed_guidance_embedder_linear_1",
    "guidance_in.out_layer": "time_text_embed_guidance_embedder_linear_2",
    "final_layer.linear": "proj_out",
}
"""Not ``final_layer.adaLN_modulation.1``: diffusers keeps its halves in opposite order."""


def bfl_names(names: Collection[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields layers of diffusers' Flux with their name by BFL.

    Args:
        names: Canonical names of the base's layers.

    Yields:
        Canonical names of the parts of one layer, in the order of its rows, and its name by BFL.
    """
    blocks = [block for name in names if (block := _BLOCK.fullmatch(name))]
    for front in {block["front"] for block in blocks}:
        if not all(front + proof in names for proof in _PROOFS):
            continue
        before = f"{front.rstrip('_')}.".lstrip(".")
        for kind, ours, table in (
            ("transformer_blocks", "double_blocks", _DOUBLE),
            ("single_transformer_blocks", "single_blocks", _SINGLE),
        ):
            for i in {b["i"] for b in blocks if (b["front"], b["kind"]) == (front, kind)}:
                for own, parts in table.items():
                    yield (
                        tuple(f"{front}{kind}_{i}_{p}" for p in parts),
                        f"{before}{ours}.{i}.{own}",
                    )
        for own, name in _OUTSIDE.items():
            yield (front + name,), before + own
