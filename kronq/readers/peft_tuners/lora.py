"""LoRA and its variants, as PEFT and its forks save them: ΔW = s · lora_B · lora_A.

| variant | known by | ΔW |
|---|---|---|
| NLoRA, SLoRA, IntTune | ``lora_N`` [r, r] | s · B · N · A |
| BD-LoRA | ``use_bdlora`` | s · B · A, one of them block-diagonal |
| QALoRA | ``use_qalora`` | s · B · A, with A repeated for each input of a group |
| VeLoRA, MonteCLoRA | tensors that training alone uses | s · B · A |
| PiSSA, OLoRA, CorDA, LoRA-GA, KaSA | their initialization | less what they took from the base |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from kronq.errors import FormatError, listing
from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers.kernels import complete_kernels
from kronq.readers.layer_factors import Parts
from kronq.readers.magnitudes import read_magnitude
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.lora_variants import MIDDLES, read_variant
from kronq.readers.peft_tuners.lora_xs import find_mappings, fold_mappings
from kronq.readers.peft_tuners.moved_base import check_moved, restore_base
from kronq.readers.peft_tuners.parts import ADAPTER_NAME, group_parts, split_names
from kronq.readers.peft_tuners.scales import check_rank, refuse_stacked, scale_by_config

_MAGNITUDE = "lora_magnitude_vector"
_TRAINING_ALONE = ("lora_velora_embed", "lora_monteclora_sampler")
_KEY = (
    rf"(?P<layer>.+)\.(?P<part>lora_[ABN](?=.*\.weight$)|{MIDDLES[1]}|{_MAGNITUDE}"
    rf"|{_TRAINING_ALONE[0]}|{_TRAINING_ALONE[1]}\..+?){ADAPTER_NAME}(\.weight)?"
)


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads LoRA layers, and DoRA's magnitudes.

    Raises:
        UnsupportedError: The initialization moved a part of the base into the factors, and neither
            the base nor the initial adapter is given.
    """
    check_moved(config, options)
    return restore_base(read_factors(tensors, config, options), config, options, read_factors)


def read_factors(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads s · B · A of every layer, whatever they began as."""
    rule = options.scale_rule or ("rslora" if config.settings.get("use_rslora") else "peft")
    mappings = find_mappings(tensors)
    names = split_names(tensors, _KEY, apart=mappings)
    used = {n: key for n, key in names.items() if not key[1].startswith(_TRAINING_ALONE)}
    groups = group_parts(tensors, used)
    _check_magnitudes(tensors, config, groups)
    factors = {name: read_variant(parts, config) for name, parts in groups.items()}
    kernels = complete_kernels(factors, tensors.path, options, config.base_model)
    layers = {}
    for name, layer in factors.items():
        rank = layer.b.rank
        if "r" in config.settings:
            refuse_stacked(tensors, config, name, rank)
        if rule not in ("lycoris", "one") and "r" in config.settings:
            check_rank(tensors, config, name, rank)
        scale = scale_by_config(tensors, config, options, rule, rank, name)
        scale /= math.sqrt(2) if rule == "rslora" and _fork_doubled_alpha(config) else 1
        delta = Delta.uncropped(layer.a, layer.b, scale, kernels[name])
        magnitude = read_magnitude(groups[name], _MAGNITUDE, delta, by_output=True)
        layers[name] = delta if magnitude is None else replace(delta, magnitude=magnitude)
    return fold_mappings(tensors, layers, mappings)


def _fork_doubled_alpha(config: PeftConfig) -> bool:
    """Tells an adapter that LoRA-GA's own fork converted: it doubles α with the rank.

    With α/√r, by ``use_rslora``, the scale is then √2 times that of the training.
    """
    return config.kind == "LORAGA" and config.settings.get("init_lora_weights") is True


def _check_magnitudes(tensors: Tensors, config: PeftConfig, groups: Mapping[str, Parts]) -> None:
    """Refuses a file whose magnitudes are not what its config says.

    Raises:
        FormatError: DoRA's layers lack magnitudes, or layers of no DoRA have some.
    """
    dora = bool(config.settings.get("use_dora"))
    odd = [name for name, parts in groups.items() if (_MAGNITUDE in parts) != dora]
    if odd:
        raise FormatError(
            "magnitudes are missing that use_dora needs" if dora else "magnitudes without use_dora",
            path=tensors.path,
            found=listing(odd),
        )
