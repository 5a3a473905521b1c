"""LoRA as PEFT saves it: ΔW = s · lora_B · lora_A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kronq.errors import FormatError, listing
from kronq.io.tensors import Tensors
from kronq.model.delta import Delta
from kronq.readers.kernels import complete_kernels
from kronq.readers.layer_factors import Parts
from kronq.readers.locon import read_locon
from kronq.readers.magnitudes import read_magnitude
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import ADAPTER_NAME, group_parts, split_names
from kronq.readers.peft_tuners.scales import check_rank, scale_by_config

_MAGNITUDE = "lora_magnitude_vector"
_KEY = rf"(?P<layer>.+)\.(?P<part>lora_[AB](?=.*\.weight$)|{_MAGNITUDE}){ADAPTER_NAME}(\.weight)?"


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads LoRA layers, and DoRA's magnitudes."""
    rule = options.scale_rule or ("rslora" if config.settings.get("use_rslora") else "peft")
    groups = group_parts(tensors, split_names(tensors, _KEY))
    _check_magnitudes(tensors, config, groups)
    factors = {name: read_locon(parts, ("lora_B", "lora_A")) for name, parts in groups.items()}
    kernels = complete_kernels(factors, tensors.path, options, config.base_model)
    layers = {}
    for name, layer in factors.items():
        rank = layer.b.rank
        if "r" in config.settings:
            _refuse_stacked(tensors, config, name, rank)
        if rule not in ("lycoris", "one") and "r" in config.settings:
            check_rank(tensors, config, name, rank)
        scale = scale_by_config(tensors, config, options, rule, rank, name)
        delta = Delta.uncropped(layer.a, layer.b, scale, kernels[name])
        magnitude = read_magnitude(groups[name], _MAGNITUDE, delta, by_output=True)
        layers[name] = replace(delta, magnitude=magnitude)
    return layers


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


def _refuse_stacked(tensors: Tensors, config: PeftConfig, layer: str, stored: int) -> None:
    """Refuses a LoRA that has the rows of several, whatever its module is called.

    Raises:
        FormatError: Its rank is a multiple of the config's.
    """
    rank = config.rank(layer)
    if 0 < rank < stored and stored % rank == 0:
        raise FormatError(
            f"the factors have {stored / rank:g} times the config's rank, as those of experts have "
            "(target_parameters), which are not supported",
            path=tensors.path,
            layer=layer,
            found=stored,
            expected=rank,
            hint="if it is one LoRA of that rank, correct r in the config",
        )
