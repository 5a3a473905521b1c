"""LoKr as PEFT saves it: ΔW = α/r · w1 ⊗ w2."""

from __future__ import annotations

from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers import lokr
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import ADAPTER_NAME, split_names
from kronq.readers.peft_tuners.scales import check_rank, scale_by_config

_KEY = rf"(?P<layer>.+)\.(?P<part>{'|'.join((*lokr.PARTS, *lokr.CONVOLUTION_PARTS))}){ADAPTER_NAME}"


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads LoKr layers."""
    rule = options.scale_rule or "peft"
    layers = {}
    for name, parts in lokr.group_tensors(tensors, split_names(tensors, _KEY)).items():
        factors = lokr.read_factors(tensors, name, parts)
        rank = factors.rank
        if rule not in ("lycoris", "one"):
            rank = check_rank(tensors, config, name, factors.rank)
        scale = scale_by_config(tensors, config, options, rule, rank, name)
        layers[name] = Delta.uncropped(factors.a, factors.b, scale)
    return layers
