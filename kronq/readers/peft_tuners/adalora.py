"""AdaLoRA: ΔW = α / (r + 1e-5) · lora_B · diag(lora_E) · lora_A, with the initial rank r.

arXiv 2303.10512. Components whose singular value was pruned to zero are left out.
"""

from __future__ import annotations

import numpy as np

from kronq.errors import FormatError
from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import bad_factors, complete_parts, float64, low_rank
from kronq.readers.scale_rule import scale_of

_PARTS = {"lora_A": 2, "lora_B": 2, "lora_E": 2}


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads AdaLoRA layers."""
    scale = _scale(config, options)
    layers = {}
    for name, parts in complete_parts(tensors, _PARTS).items():
        up, down, values = (float64(tensors, parts[f"lora_{part}"]) for part in "BAE")
        if values.shape != (len(down), 1) or up.shape[1] != len(down):
            shapes = {part: tensors.entries[parts[part]].shape for part in _PARTS}
            expected = "lora_A [r, d_in], lora_B [d_out, r] and lora_E [r, 1]"
            raise bad_factors(tensors, name, shapes, expected=expected)
        kept = values[:, 0] != 0
        kept = kept if kept.any() else np.arange(len(kept)) == 0
        layers[name] = low_rank(tensors, name, up[:, kept], (down * values)[kept], scale)
    return layers


def _scale(config: PeftConfig, options: Options) -> float:
    """Returns α / (r + 1e-5) of PEFT, where r is the rank that training began with."""
    rank = config.number("init_r")
    if not rank > 0:
        raise FormatError("init_r is no rank", path=config.path, found=rank)
    alpha = options.alpha if options.alpha is not None else config.number("lora_alpha")
    alpha = alpha if alpha > 0 or options.alpha is not None else rank
    rule = options.scale_rule or "peft"
    scale = scale_of(rule, alpha=alpha, rank=rank, path=config.path, layer="every layer")
    return scale * rank / (rank + 1e-5) if rule == "peft" else scale
