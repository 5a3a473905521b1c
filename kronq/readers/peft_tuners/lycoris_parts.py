"""LoKr and LoHa as PEFT saves them, in LyCORIS's parts; the scale is α/r by the config."""

from __future__ import annotations

from collections.abc import Callable, Collection

from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers import loha, lokr
from kronq.readers.expansion import check_expansion
from kronq.readers.kernels import complete_kernels
from kronq.readers.layer_factors import LayerFactors, Parts
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import ADAPTER_NAME, group_parts, split_names
from kronq.readers.peft_tuners.scales import check_rank, scale_by_config


def read_lokr(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads LoKr layers: ΔW = α/r · w1 ⊗ w2."""
    return _read(tensors, config, options, lokr.PARTS, lokr.read_lokr)


def read_loha(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads LoHa layers: ΔW = α/r · (w1_a · w1_b) ⊙ (w2_a · w2_b)."""
    return _read(tensors, config, options, loha.PARTS, loha.read_loha)


def _read(
    tensors: Tensors,
    config: PeftConfig,
    options: Options,
    parts: Collection[str],
    read_factors: Callable[[Parts], LayerFactors],
) -> dict[str, Delta]:
    rule = options.scale_rule or "peft"
    key = rf"(?P<layer>.+)\.(?P<part>{'|'.join(parts)}){ADAPTER_NAME}"
    groups = group_parts(tensors, split_names(tensors, key))
    check_expansion(groups.values())
    factors = {name: read_factors(each) for name, each in groups.items()}
    kernels = complete_kernels(factors, tensors.path, options, config.base_model)
    layers = {}
    for name, layer in factors.items():
        rank = layer.rank
        if rule not in ("lycoris", "one"):
            rank = check_rank(tensors, config, name, layer.rank)
        scale = scale_by_config(tensors, config, options, rule, rank, name)
        layers[name] = Delta.uncropped(layer.a, layer.b, scale, kernels[name])
    return layers
