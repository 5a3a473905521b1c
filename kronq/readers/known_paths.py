"""Paths of known models' linear layers, which tell where a flattened name had dots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise, product

from kronq.model.flat_names import flatten

_FRONTS = (
    *("model", "language_model", "text_model", "transformer", "gpt_neox", "encoder", "decoder"),
    *("bert", "roberta", "deberta", "distilbert", "electra", "vision_model", "vision_tower"),
)
"""Modules around the layers of a model, any number of them."""

_PROJECTIONS = "{q_proj,k_proj,v_proj,o_proj,out_proj,qkv_proj,q_a_proj,q_b_proj,kv_b_proj}"
_MLP = "{gate_proj,up_proj,down_proj,gate_up_proj}"
_TO = "{to_q,to_k,to_v,to_out.#,add_q_proj,add_k_proj,add_v_proj,to_add_out}"
_NET = "net.{#,#.proj}"
_UNET = "{down_blocks.#,mid_block,up_blocks.#}"
_LDM = "{input_blocks.#.#,middle_block.#,output_blocks.#.#}"

_PATHS = (
    # Language models; # is a number, {a,b} one of several.
    f"layers.#.{{self_attn,cross_attn,encoder_attn}}.{_PROJECTIONS}",
    "layers.#.self_attn.{kv_a_proj_with_mqa,query_key_value,dense}",
    "layers.#.linear_attn.{in_proj_qkvz,in_proj_ba,in_proj_qkv,in_proj_z,in_proj_a,in_proj_b,out_proj}",
    f"layers.#.mlp.{{{_MLP},fc1,fc2,c_fc,c_proj,gate,shared_expert_gate}}",
    f"layers.#.mlp.{{experts.#,shared_expert,shared_experts}}.{_MLP}",
    "layers.#.block_sparse_moe.{gate,experts.#.{w1,w2,w3}}",
    "layers.#.{fc1,fc2,project_in,project_out}",
    "layers.#.attention.{query_key_value,dense}",
    "layers.#.mlp.{dense_h_to_4h,dense_4h_to_h}",
    "h.#.attn.{c_attn,c_proj,q_proj,k_proj,v_proj,out_proj}",
    "h.#.attn.attention.{q_proj,k_proj,v_proj,out_proj}",
    "h.#.crossattention.{c_attn,q_attn,c_proj}",
    "h.#.mlp.{c_fc,c_proj,fc_in,fc_out,dense_h_to_4h,dense_4h_to_h}",
    "h.#.self_attention.{query_key_value,dense}",
    "block.#.layer.#.{SelfAttention,EncDecAttention}.{q,k,v,o}",
    "block.#.layer.#.DenseReluDense.{wi,wi_0,wi_1,wo}",
    "layer.#.attention.self.{query,key,value,query_proj,key_proj,value_proj}",
    "layer.#.{attention.output,intermediate,output}.dense",
    "layer.#.attention.{q_lin,k_lin,v_lin,out_lin}",
    "layer.#.ffn.{lin1,lin2}",
    "{lm_head,embed_out,embed_tokens,pooler.dense,pre_classifier,text_projection}",
    # UNets, as diffusers and as the first release name them.
    f"{_UNET}.attentions.#.{{proj_in,proj_out}}",
    f"{_UNET}.attentions.#.transformer_blocks.#.{{{{attn1,attn2}}.{_TO},ff.{_NET}}}",
    f"{_UNET}.resnets.#.time_emb_proj",
    "{time_embedding,add_embedding}.{linear_1,linear_2}",
    f"{_LDM}.{{proj_in,proj_out,emb_layers.#}}",
    f"{_LDM}.transformer_blocks.#.{{{{attn1,attn2}}.{_TO},ff.{_NET}}}",
    "{time_embed.#,label_emb.#.#}",
    # Diffusion transformers of diffusers: Flux, SD 3, Qwen-Image, Wan, Z-Image and others.
    f"transformer_blocks.#.{{{{attn,attn1,attn2}}.{_TO},{{ff,ff_context,img_mlp,txt_mlp}}.{_NET}}}",
    "transformer_blocks.#.{norm1.linear,norm1_context.linear,img_mod.#,txt_mod.#}",
    f"single_transformer_blocks.#.{{attn.{_TO},norm.linear,proj_mlp,proj_out}}",
    "time_text_embed.{timestep_embedder,guidance_embedder,text_embedder}.{linear_1,linear_2}",
    "{x_embedder,context_embedder,norm_out.linear,proj_out}",
    f"blocks.#.{{{{attn1,attn2}}.{_TO},ffn.{_NET}}}",
    "condition_embedder.{time_proj,{time_embedder,text_embedder}.{linear_1,linear_2}}",
    "{layers,noise_refiner,context_refiner}.#.attention.{to_q,to_k,to_v,to_out.#}",
    "{layers,noise_refiner,context_refiner}.#.{feed_forward.{w1,w2,w3},adaLN_modulation.#}",
    # The same of their makers: Flux, SD 3, Wan.
    "double_blocks.#.{{img_attn,txt_attn}.{qkv,proj},{img_mlp,txt_mlp}.#,{img_mod,txt_mod}.lin}",
    "single_blocks.#.{linear1,linear2,modulation.lin}",
    "{img_in,txt_in,{time_in,vector_in,guidance_in}.{in_layer,out_layer}}",
    "final_layer.{linear,adaLN_modulation.#}",
    "joint_blocks.#.{x_block,context_block}.{{attn,attn2}.{qkv,proj},mlp.{fc1,fc2},adaLN_modulation.#}",
    "blocks.#.{{self_attn,cross_attn}.{q,k,v,o,k_img,v_img},ffn.#}",
    "{text_embedding,time_embedding,time_projection}.#",
    "head.head",
)

_NUMBER = re.compile(r"\d+")


def restore_dots(flat: str) -> str | None:
    """Returns the module path of a known model that was flattened to ``flat``.

    Args:
        flat: Without the front of a flattened key.

    Returns:
        The path; None where the table has none, or more than one.
    """
    if "_" not in flat:
        return flat  # nothing could have been a dot
    rests, fronts = [(flat, "")], []
    while rests:  # every way to take modules off the front
        rest, front = rests.pop()
        fronts.append((rest, front))
        rests += [
            (rest[len(name) + 1 :], f"{front}{name}.")
            for name in _FRONTS
            if rest.startswith(f"{name}_")
        ]
    found = {front + path for rest, front in fronts for path in _fill_numbers(rest)}
    return found.pop() if len(found) == 1 else None


def _fill_numbers(flat: str) -> Iterator[str]:
    """Yields the paths that the table has for a flattened name."""
    numbers = _NUMBER.findall(flat)
    for path in _table().get(_NUMBER.sub("#", flat), ()):
        yield path % tuple(numbers)


@cache
def _table() -> dict[str, list[str]]:
    """Returns flattened path, its numbers as ``#`` → the path with places for its numbers."""
    table: dict[str, list[str]] = {}
    for template in _PATHS:
        for path in _expand(template):
            key = _NUMBER.sub("#", flatten(path))
            pieces = _NUMBER.sub("#", path).replace("#", "%s")
            if pieces not in table.setdefault(key, []):
                table[key].append(pieces)
    return table


def _expand(template: str) -> list[str]:
    """Returns the paths of a template: ``a.{b,c{d,e}}`` stands for three."""
    start = template.find("{")
    if start < 0:
        return [template]
    depth, cuts = 0, [start]
    for i in range(start, len(template)):
        depth += (template[i] == "{") - (template[i] == "}")
        if depth == 0 or (depth == 1 and template[i] == ","):
            cuts.append(i)
        if depth == 0:
            break
    choices = [template[a + 1 : b] for a, b in pairwise(cuts)]
    inner = [each for choice in choices for each in _expand(choice)]
    tails = _expand(template[cuts[-1] + 1 :])
    return [template[:start] + each + tail for each, tail in product(inner, tails)]
