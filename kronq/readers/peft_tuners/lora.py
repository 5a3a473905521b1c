"""LoRA as PEFT saves it: ΔW = s · lora_B · lora_A."""

from __future__ import annotations

from kronq import limits
from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.tensors import Tensors
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.parts import ADAPTER_NAME, split_names
from kronq.readers.peft_tuners.scales import check_rank, scale_by_config

_KEY = rf"(?P<layer>.+)\.(?P<part>lora_[AB]){ADAPTER_NAME}\.weight"


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads LoRA layers."""
    rule = options.scale_rule or ("rslora" if config.settings.get("use_rslora") else "peft")
    layers = {}
    for name, parts in _group(tensors).items():
        if len(parts) != 2 or parts["lora_B"].shape[1] != parts["lora_A"].shape[0]:
            raise FormatError(
                "incomplete or mismatched factors",
                path=tensors.path,
                layer=name,
                found=", ".join(f"{k} {list(m.shape)}" for k, m in sorted(parts.items())),
                expected="lora_A [r, d_in] and lora_B [d_out, r]",
            )
        b = Product(parts["lora_B"], parts["lora_A"])
        limits.RANK.check(b.rank, tensors.path, name)
        if "r" in config.settings:
            _refuse_stacked(tensors, config, name, b.rank)
        if rule not in ("lycoris", "one") and "r" in config.settings:
            check_rank(tensors, config, name, b.rank)
        scale = scale_by_config(tensors, config, options, rule, b.rank, name)
        layers[name] = Delta(ONE, b, scale, b.shape)
    return layers


def _group(tensors: Tensors) -> dict[str, dict[str, Float]]:
    """Returns layer → part → matrix."""
    convolutions = [name for name, entry in tensors.entries.items() if len(entry.shape) > 2]
    layers: dict[str, dict[str, Float]] = {}
    for tensor, (layer, part) in split_names(tensors, _KEY).items():
        if tensor in convolutions:
            raise UnsupportedError(
                "LoRA on convolutions is not supported",
                path=tensors.path,
                found=listing(convolutions),
            )
        layers.setdefault(layer, {})[part] = Float(tensors.matrix(tensor))
    return layers


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
