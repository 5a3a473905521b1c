"""LoHa as PEFT saves it: ΔW = α/r · (w1_a · w1_b) ⊙ (w2_a · w2_b)."""

from __future__ import annotations

from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers import loha
from kronq.readers.expansion import check_expansion
from kronq.readers.kernels import complete_kernels
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import ADAPTER_NAME, group_parts, split_names
from kronq.readers.peft_tuners.scales import check_rank, scale_by_config

_KEY = rf"(?P<layer>.+)\.(?P<part>{'|'.join(loha.PARTS)}){ADAPTER_NAME}"


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads LoHa layers."""
    rule = options.scale_rule or "peft"
    groups = group_parts(tensors, split_names(tensors, _KEY))
    check_expansion(groups.values())
    factors = {name: loha.read_loha(parts) for name, parts in groups.items()}
    kernels = complete_kernels(factors, tensors.path, options, config.base_model)
    layers = {}
    for name, layer in factors.items():
        if rule not in ("lycoris", "one"):
            check_rank(tensors, config, name, layer.rank)
        scale = scale_by_config(tensors, config, options, rule, layer.rank, name)
        layers[name] = Delta.uncropped(layer.a, layer.b, scale, kernels[name])
    return layers
