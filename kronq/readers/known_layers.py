"""Templates of the paths of known models' layers; # is a number, {a,b} one of several."""

from __future__ import annotations

FRONTS = (
    *("model", "language_model", "text_model", "transformer", "gpt_neox", "encoder", "decoder"),
    *("bert", "roberta", "deberta", "distilbert", "electra", "vision_model", "vision_tower"),
)
"""Modules around the layers of a language model, any number of them."""

_PROJECTIONS = "{q_proj,k_proj,v_proj,o_proj,out_proj,qkv_proj,q_a_proj,q_b_proj,kv_b_proj}"
_MLP = "{gate_proj,up_proj,down_proj,gate_up_proj}"
_TO = "{to_q,to_k,to_v,to_out.#,add_q_proj,add_k_proj,add_v_proj,to_add_out}"
_NET = "net.{#,#.proj}"
_ATTENTION = f"{{attn1,attn2}}.{_TO}"
_UNET = "{down_blocks.#,mid_block,up_blocks.#}"
_LDM = "{input_blocks.#.#,middle_block.#,output_blocks.#.#}"
_VAE = "{encoder.down_blocks.#,encoder.mid_block,decoder.mid_block,decoder.up_blocks.#}"
_EMBEDDER = "{timestep_embedder,guidance_embedder,text_embedder,condition_embedder}"
_CROSS = "{audio,video_to_audio,audio_to_video}"

LANGUAGE = (
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
)
"""Linear layers of language models and text encoders, behind any of the fronts."""

IMAGE = (
    # UNets, as diffusers and as the first release name them.
    f"{_UNET}.{{attentions,motion_modules,temp_attentions}}.#.{{proj_in,proj_out}}",
    f"{_UNET}.{{attentions,motion_modules,temp_attentions}}.#.transformer_blocks.#."
    f"{{{_ATTENTION},ff.{_NET}}}",
    f"{_UNET}.attentions.#.{{to_q,to_k,to_v,to_out.#}}",
    f"{_UNET}.attentions.#.temporal_transformer_blocks.#.{{{_ATTENTION},{{ff,ff_in}}.{_NET}}}",
    f"{_UNET}.attentions.#.time_pos_embed.{{linear_1,linear_2}}",
    f"{_UNET}.resnets.#.{{time_emb_proj,{{spatial,temporal}}_res_block.time_emb_proj}}",
    "{time_embedding,add_embedding}.{linear_1,linear_2}",
    f"{_LDM}.{{proj_in,proj_out,emb_layers.#}}",
    f"{_LDM}.transformer_blocks.#.{{{_ATTENTION},ff.{_NET}}}",
    "{time_embed.#,label_emb.#.#}",
    f"{_VAE}.attentions.#.{{to_q,to_k,to_v,to_out.#}}",
    # Diffusion transformers of diffusers: Flux, SD 3, Qwen-Image, Wan, LTX, PixArt and others.
    f"transformer_blocks.#.{{{{attn,attn1,attn2}}.{_TO},{{ff,ff_context,img_mlp,txt_mlp}}.{_NET}}}",
    f"transformer_blocks.#.{{{_CROSS}_attn,audio_attn1,audio_attn2}}.{{to_q,to_k,to_v,to_out.#}}",
    f"transformer_blocks.#.audio_ff.{_NET}",
    "transformer_blocks.#.{ff,ff_context}.{linear_in,linear_out}",
    "transformer_blocks.#.{norm1.linear,norm1_context.linear,norm1_context.linear_1}",
    "transformer_blocks.#.{norm1,norm2,norm3}.{linear,linear_1,linear_2}",
    "transformer_blocks.#.{img_mod.#,txt_mod.#}",
    f"single_transformer_blocks.#.{{attn.{_TO},norm.linear,proj_mlp,proj_out}}",
    "single_transformer_blocks.#.attn.{to_out,to_qkv_mlp_proj}",
    "{joint_transformer_blocks,single_transformer_blocks}.#."
    f"{{attn.{_TO},{{ff,ff_context}}.{{linear_1,linear_2,out_projection}}}}",
    "{joint_transformer_blocks,single_transformer_blocks}.#.{norm1,norm1_context}.linear",
    "{double_stream_modulation_img,double_stream_modulation_txt,single_stream_modulation}.linear",
    f"{{time_text_embed,time_guidance_embed,time_condition_embed,time_embed}}.{_EMBEDDER}"
    ".{linear_1,linear_2}",
    "{time_embed,adaln_single,audio_time_embed}.{linear,emb.timestep_embedder.{linear_1,linear_2}}",
    "adaln_single.emb.{resolution_embedder,aspect_ratio_embedder}.{linear_1,linear_2}",
    "{caption_projection,audio_caption_projection,time_step_proj,image_embedder}.{linear_1,linear_2}",
    "{x_embedder,context_embedder,norm_out.linear,proj_out,proj_in,audio_proj_in,audio_proj_out}",
    "{norm_out.{linear_1,linear_2},context_embedder_2.{linear_1,linear_2,linear_3}}",
    "context_embedder.{proj_in,time_text_embed.{timestep_embedder,text_embedder}.{linear_1,linear_2}}",
    "context_embedder.token_refiner.refiner_blocks.#."
    f"{{attn.{{to_q,to_k,to_v,to_out.#}},ff.{_NET},norm_out.linear}}",
    f"{{blocks,vace_blocks}}.#.{{{_ATTENTION},ffn.{_NET}}}",
    "vace_blocks.#.{proj_in,proj_out}",
    "condition_embedder.{time_proj,{time_embedder,text_embedder}.{linear_1,linear_2}}",
    f"condition_embedder.image_embedder.ff.{_NET}",
    "{layers,noise_refiner,context_refiner}.#.{attention,attn}.{to_q,to_k,to_v,to_out.#}",
    "{layers,noise_refiner,context_refiner}.#.{feed_forward.{w1,w2,w3},adaLN_modulation.#}",
    "{layers,noise_refiner,context_refiner}.#."
    "{norm1.linear,feed_forward.{linear_1,linear_2,linear_3}}",
    "{cap_embedder.#,t_embedder.mlp.#}",
    "distilled_guidance_layer.{in_proj,out_proj,layers.#.{linear_1,linear_2}}",
    # The same of their makers: Flux, SD 3, Hunyuan, Wan.
    "single_blocks.#.{linear1,linear2,modulation.lin,modulation.linear}",
    "double_blocks.#.{{img_mlp,txt_mlp}.#,{img_mod,txt_mod}.lin}",
    "double_blocks.#.{{img,txt}_mlp.{fc1,fc2},{img,txt}_mod.linear}",
    "{img_in,txt_in,{time_in,vector_in,guidance_in}.{in_layer,out_layer}}",
    "final_layer.{linear,adaLN_modulation.#}",
    "joint_blocks.#.{x_block,context_block}.{{attn,attn2}.{qkv,proj},mlp.{fc1,fc2},adaLN_modulation.#}",
    "blocks.#.{{self_attn,cross_attn}.{q,k,v,o,k_img,v_img},ffn.#}",
    "{text_embedding,time_embedding,time_projection}.#",
    "head.head",
)
"""Linear layers of image and video models; ``proj_in`` and ``proj_out`` of some are 1×1."""

FLUX = ("double_blocks.#.{img_attn,txt_attn}.{qkv,proj}",)
HUNYUAN = ("double_blocks.#.{img_attn,txt_attn}_{qkv,proj}",)
"""Layers of HunyuanVideo, by its makers, which flatten to the same names as Flux's."""

Kernel = tuple[int, ...]

CONVOLUTIONS: tuple[tuple[Kernel | None, tuple[str, ...]], ...] = (
    (
        (3, 3),
        (
            f"{_UNET}.resnets.#.{{conv1,conv2,spatial_res_block.{{conv1,conv2}}}}",
            "{down_blocks.#.downsamplers.#.conv,up_blocks.#.upsamplers.#.conv,conv_in,conv_out}",
            f"{_LDM}.{{in_layers.#,out_layers.#,op,conv}}",
            "{input_blocks.#.#,out.#}",
            "controlnet_cond_embedding.{conv_in,conv_out,blocks.#}",
        ),
    ),
    (
        (1, 1),
        (
            f"{_UNET}.resnets.#.{{conv_shortcut,spatial_res_block.conv_shortcut}}",
            f"{_LDM}.skip_connection",
            "{controlnet_down_blocks.#,controlnet_mid_block}",
            "transformer_blocks.#.ff.{conv_inverted,conv_point}",
        ),
    ),
    (
        (3, 1, 1),
        (
            f"{_UNET}.resnets.#.temporal_res_block.{{conv1,conv2}}",
            f"{_UNET}.temp_convs.#.{{conv1.#,conv2.#,conv3.#,conv4.#}}",
        ),
    ),
    ((1, 2, 2), ("{patch_embedding,vace_patch_embedding}",)),
    (
        None,  # their kernels differ between models and releases
        (
            "{pos_embed.proj,patch_embed.proj,x_embedder.proj,img_in.proj}",
            "transformer_blocks.#.ff.{conv_depth,conv_temp}",
            "{quant_conv,post_quant_conv,preprocess_conv,postprocess_conv}",
            "{encoder,decoder}.{conv_in,conv_out}",
            f"{_VAE}.resnets.#.{{conv1,conv2,conv_shortcut}}",
            "{encoder.down_blocks.#.downsamplers.#.conv,decoder.up_blocks.#.upsamplers.#.conv}",
        ),
    ),
)
"""Kernel → convolutions that have it in every known model; None where models differ."""
