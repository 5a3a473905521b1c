"""MiSS: ΔW = [1 … 1] ⊗ blockᵀ, cropped to the base's inputs: all shards of inputs share one block.

arXiv 2409.15371. ``mini`` repeats the block along the outputs too. The file has the block alone, so
the shape is that of the base. ``bat`` multiplies the block with the base's weights.
"""

from __future__ import annotations

import numpy as np

from kronq.errors import UnsupportedError
from kronq.io.tensors import Tensors
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.base_shapes import base_shapes
from kronq.readers.peft_tuners.parts import bad_factors, complete_parts, refuse_scale


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads MiSS layers."""
    refuse_scale(config, options)
    variant = config.settings.get("init_weights")
    if variant == "bat":
        raise UnsupportedError(
            "MiSS of init_weights 'bat' multiplies the base's weights",
            path=config.path,
            hint="PEFT's save_as_lora makes a LoRA of it, of a rank that you choose",
        )
    groups = complete_parts(tensors, {"miss_block": 2})
    if options.base_weights is None:
        raise UnsupportedError(
            "the number of inputs of each layer is not in a file of MISS",
            path=tensors.path,
            hint="{base_weights} names the base's folder, with its safetensors",
        )
    shapes = base_shapes(options.base_weights, config, groups)
    layers = {}
    for name, parts in groups.items():
        block = tensors.matrix(parts["miss_block"]).T  # [d_out or mini_r, r]
        rows, cols = shapes[name]
        tall = rows // len(block) if variant == "mini" else 1
        if tall * len(block) != rows or block.shape[1] > cols:
            found = {"miss_block": block.shape[::-1]}
            raise bad_factors(tensors, name, found, expected=f"[r, {rows}] of the base's layer")
        ones = np.ones((tall, -(-cols // block.shape[1])), np.float32)
        product = Product(Float(np.ascontiguousarray(block)))
        layers[name] = Delta(Product(Float(ones)), product, 1.0, (rows, cols))
    return layers
