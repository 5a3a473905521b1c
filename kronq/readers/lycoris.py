"""LyCORIS LoKr files: ``lycoris_…``, ``lora_unet_…``, ``lora_te…_…`` and dotted keys.

LyCORIS flattens module paths (``model.layers.0.self_attn.q_proj`` becomes
``lycoris_model_layers_0_self_attn_q_proj``). Dots are restored around known module names; other
names stay joined, and an export matches them in their flattened form.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import Delta
from kronq.model.layer_names import natural_key
from kronq.readers import lokr
from kronq.readers.options import Options
from kronq.readers.scale_rule import LARGEST_SCALE, scale_of

_PARTS = (*lokr.PARTS, *lokr.CONVOLUTION_PARTS, "alpha", "dora_scale", "scalar")
_KEY = re.compile(rf"(?P<layer>.+)\.(?P<part>{'|'.join(_PARTS)})")
_PREFIX = re.compile(r"(lycoris_|lora_unet_|lora_(?P<encoder>te\d*)_|lora_|diffusion_model\.)")

# Module names with an underscore inside: everything else between underscores is a path step.
_JOINED = (
    "self_attn cross_attn self_attention cross_attention encoder_attn linear_attn "
    "q_proj k_proj v_proj o_proj out_proj qkv_proj in_proj gate_proj up_proj down_proj "
    "gate_up_proj lm_head embed_tokens c_attn c_proj c_fc query_key_value dense_h_to_4h "
    "dense_4h_to_h q_lin k_lin v_lin out_lin proj_in proj_out to_q to_k to_v to_out to_add_out "
    "add_q_proj add_k_proj add_v_proj down_blocks up_blocks mid_block transformer_blocks "
    "single_transformer_blocks ff_context time_emb_proj time_embedding linear_1 linear_2 "
    "text_model text_encoder vision_model input_blocks middle_block output_blocks "
    "img_attn txt_attn "
    "img_mlp txt_mlp img_mod txt_mod double_blocks single_blocks double_stream_blocks "
    "x_embedder t_embedder context_embedder norm_out adaLN_modulation feed_forward "
    "gpt_neox embed_out fc_in fc_out wi_0 wi_1 shared_expert shared_experts shared_expert_gate "
    "query_proj key_proj value_proj q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj in_proj_qkvz "
    "in_proj_ba proj_mlp norm1_context time_text_embed timestep_embedder guidance_embedder "
    "text_embedder img_in txt_in time_in vector_in guidance_in in_layer out_layer final_layer"
).split()
_STEP = re.compile(rf"(?:{'|'.join(sorted(_JOINED, key=len, reverse=True))})(?=_|$)|[^_]+")


def detect(path: Path) -> bool:
    """Tells whether a path is a safetensors file with LoKr tensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    return any(".lokr_w" in name for name in open_tensors(path).entries)


def read(path: Path, options: Options) -> Adapter:
    """Reads a LyCORIS file.

    Raises:
        FormatError: Incomplete factors, or an absurd α.
        UnsupportedError: Convolutions, DoRA, or tensors of another algorithm.
    """
    file = open_tensors(path)
    if any(tensor.startswith("base_model.model.") for tensor in file.entries):
        raise FormatError(
            "PEFT's weights without their adapter_config.json, which has alpha and the rank",
            path=path,
            hint="put both in a folder, the weights named adapter_model.safetensors",
        )
    layers: dict[str, Delta] = {}
    for key, parts in lokr.group_tensors(file, _split_names(file)).items():
        layer = module_path(key)
        if layer in layers:
            raise FormatError("two keys name one layer", path=path, layer=layer, found=key)
        factors = lokr.read_factors(file, layer, parts)
        alpha = options.alpha
        if alpha is None and "alpha" in parts:  # infinite, maybe, where no rule uses it
            alpha = file.number(parts["alpha"])
        rule = options.scale_rule or "lycoris"
        scale = scale_of(rule, alpha=alpha, rank=factors.rank, path=path, layer=layer)
        # The scalar is trained; a regular save folds it into w1.
        scalar = _read_scalar(file, parts.get("scalar"))
        if abs(scale * scalar) > LARGEST_SCALE:
            raise FormatError(
                "the scale is absurd",
                path=path,
                layer=layer,
                found=f"{scale:g} times a scalar of {scalar:g}",
                expected=f"at most {LARGEST_SCALE:g}",
            )
        scale *= scalar
        layers[layer] = Delta.uncropped(factors.a, factors.b, scale)
    if not layers:
        raise FormatError("no adapted layers", path=path)
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    base = file.metadata.get("ss_base_model_version") or file.metadata.get("ss_sd_model_name")
    return Adapter(ordered, Origin("lycoris", path, file.size, base))


def _split_names(file: Tensors) -> dict[str, tuple[str, str]]:
    """Returns tensor name → (key of a layer, part)."""
    names, unknown = {}, []
    for tensor in file.entries:
        match = _KEY.fullmatch(tensor)
        if match:
            names[tensor] = (match["layer"], match["part"])
        else:
            unknown.append(tensor)
    if unknown:
        raise UnsupportedError(
            "tensors that are not LoKr's", path=file.path, found=listing(unknown)
        )
    return names


def module_path(key: str) -> str:
    """Returns the module path that a LyCORIS key stands for, as far as the key determines it."""
    match = _PREFIX.match(key)
    rest = key[match.end() :] if match else key
    if match is None or key.startswith("diffusion_model."):
        return rest
    path = ".".join(_STEP.findall(rest))
    return f"{match['encoder']}.{path}" if match["encoder"] else path


def _read_scalar(file: Tensors, tensor: str | None) -> float:
    """Returns what multiplies w1: 1 where the file has no scalar."""
    value = 1.0 if tensor is None else file.number(tensor)
    if not math.isfinite(value):
        raise FormatError(f"{tensor!r} is not finite", path=file.path, found=value)
    return value
