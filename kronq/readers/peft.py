"""PEFT adapters, LoKr and LoRA: folders of ``PeftModel.save_pretrained``, and state dicts.

Shapes come from the tensors, never from the config: PEFT's own factorization rule has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kronq import limits
from kronq.errors import FormatError, UnsupportedError, check_text, check_type, listing
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors, copy_tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.model.layer_names import natural_key
from kronq.model.matrix import Float
from kronq.readers import lokr
from kronq.readers.missing_layers import refuse_missing_layers
from kronq.readers.options import Options
from kronq.readers.peft_config import CONFIG, WEIGHTS, PeftConfig, read_config
from kronq.readers.peft_names import refuse_weights_beside, unwrap_name
from kronq.readers.scale_rule import ScaleRule, scale_of, uses_alpha

_PICKLED_WEIGHTS = "adapter_model.bin"

_INDEX = f"{WEIGHTS}.index.json"

_NAME = r"(\.(?P<adapter>[^.]+))?"
_LOKR_KEY = rf"(?P<layer>.+)\.(?P<part>{'|'.join((*lokr.PARTS, *lokr.CONVOLUTION_PARTS))}){_NAME}"
_LORA_KEY = rf"(?P<layer>.+)\.(?P<part>lora_[AB]){_NAME}\.weight"


def detect(path: Path) -> bool:
    """Tells whether a path is a folder with PEFT's config or weights, or either file of one."""
    if path.is_dir():
        return any((path / name).exists() for name in (CONFIG, WEIGHTS, _PICKLED_WEIGHTS))
    return path.name in (CONFIG, WEIGHTS)


def read(path: Path, options: Options) -> Adapter:
    """Reads a PEFT folder.

    Raises:
        FormatError: The config or the weights are missing, damaged or incomplete.
        UnsupportedError: Another ``peft_type``, a convolution, DoRA, or trained full modules.
    """
    folder = path if path.is_dir() else path.parent
    config = read_config(folder)
    config.check_supported()
    refuse_weights_beside(folder)
    if not (folder / WEIGHTS).exists() and (folder / _INDEX).exists():
        raise UnsupportedError(
            "the weights are split over several files",
            path=folder / _INDEX,
            expected=f"one {WEIGHTS}",
            hint="load all parts with safetensors' load_file and save them with one save_file",
        )
    pickled = not (folder / WEIGHTS).exists() and (folder / _PICKLED_WEIGHTS).exists()
    file = open_tensors(folder / (_PICKLED_WEIGHTS if pickled else WEIGHTS))
    origin = Origin("peft", path, file.size, config.base_model)
    return Adapter(_read_layers(file, config, options), origin)


def read_state_dict(tensors: Mapping[str, Any], settings: Mapping[str, Any]) -> Adapter:
    """Reads a PEFT adapter that is held in memory; see ``Adapter.from_state_dict``."""
    check_type("config", settings, Mapping)
    config = PeftConfig(settings)
    config.check_supported()
    for name in (*tensors, config.base_model or ""):
        if isinstance(name, str):
            check_text("a name", name)
    layers = _read_layers(copy_tensors(tensors), config, Options())
    return Adapter(layers, Origin("peft", base_model=config.base_model))


def _read_layers(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    read_kind = _read_lokr if config.is_lokr else _read_lora
    layers = read_kind(tensors, config, options)
    if not layers:
        raise FormatError("no adapted layers", path=tensors.path)
    refuse_missing_layers(config, layers, tensors.path)
    return {name: layers[name] for name in sorted(layers, key=natural_key)}


def _split_names(tensors: Tensors, pattern: str) -> dict[str, tuple[str, str]]:
    """Returns tensor name → (layer, part).

    Beside an adapted ``lm_head`` or ``embed_tokens`` PEFT saves the frozen weight as well
    (``save_embedding_layers``): it is the base's, and left out.

    Raises:
        UnsupportedError: Some tensors are no part of a layer; all of them are named.
    """
    names: dict[str, tuple[str, str]] = {}
    owners: dict[tuple[str, str], str] = {}
    unknown = []
    for tensor in tensors.entries:
        match = re.fullmatch(pattern, unwrap_name(tensor))
        if not match:
            unknown.append(tensor)
            continue
        names[tensor] = match["layer"], match["part"]
        other = owners.setdefault(names[tensor], tensor)
        if other != tensor:
            raise FormatError(
                "two tensors are the same part of one layer",
                path=tensors.path,
                layer=match["layer"],
                found=listing([other, tensor]),
                hint="keep those of one adapter",
            )
    frozen = {f"{layer}.base_layer.weight" for layer, _ in names.values()}
    unknown = [tensor for tensor in unknown if unwrap_name(tensor) not in frozen]
    if unknown:
        raise UnsupportedError(
            "tensors that belong to no supported layer", path=tensors.path, found=listing(unknown)
        )
    _refuse_experts(tensors, {layer for layer, _ in names.values()})
    return names


def _refuse_experts(tensors: Tensors, layers: Iterable[str]) -> None:
    """Refuses LoRA on the stacked weights of experts, which has r rows for each of them.

    Raises:
        UnsupportedError: Some layers are such weights; all of them are named.
    """
    experts = [name for name in layers if re.search(r"(^|\.)(experts|base_layer)$", name)]
    if experts:
        raise UnsupportedError(
            "LoRA on the stacked weights of experts (target_parameters) is not supported",
            path=tensors.path,
            found=listing(experts),
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


def _read_lokr(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    rule = options.scale_rule or "peft"
    layers = {}
    for name, parts in lokr.group_tensors(tensors, _split_names(tensors, _LOKR_KEY)).items():
        factors = lokr.read_factors(tensors, name, parts)
        rank = factors.rank
        if rule not in ("lycoris", "one"):
            rank = _rank(tensors, config, name, factors.rank)
        scale = _scale(tensors, config, options, rule, rank, name)
        layers[name] = Delta.uncropped(factors.a, factors.b, scale)
    return layers


def _read_lora(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    rule = options.scale_rule or ("rslora" if config.settings.get("use_rslora") else "peft")
    layers = {}
    for name, parts in _group_lora(tensors).items():
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
            _rank(tensors, config, name, b.rank)
        scale = _scale(tensors, config, options, rule, b.rank, name)
        layers[name] = Delta(ONE, b, scale, b.shape)
    return layers


def _group_lora(tensors: Tensors) -> dict[str, dict[str, Float]]:
    """Returns layer → part → matrix."""
    convolutions = [name for name, entry in tensors.entries.items() if len(entry.shape) > 2]
    layers: dict[str, dict[str, Float]] = {}
    for tensor, (layer, part) in _split_names(tensors, _LORA_KEY).items():
        if tensor in convolutions:
            raise UnsupportedError(
                "LoRA on convolutions is not supported",
                path=tensors.path,
                found=listing(convolutions),
            )
        layers.setdefault(layer, {})[part] = Float(tensors.matrix(tensor))
    return layers


def _rank(tensors: Tensors, config: PeftConfig, layer: str, stored: int | None) -> int:
    """Returns the config's rank of a layer, which its scale divides by.

    Raises:
        FormatError: The tensors have another, so that one of the two gives a wrong scale. PEFT
            cannot load such an adapter.
    """
    rank = config.rank(layer)
    if stored not in (None, rank):
        raise FormatError(
            "the config's rank is not that of the tensors",
            path=tensors.path,
            layer=layer,
            found=stored,
            expected=rank,
            hint="correct it, or {scale_rule=lycoris}, which divides by the tensors' rank",
        )
    return rank


def _scale(
    tensors: Tensors,
    config: PeftConfig,
    options: Options,
    rule: ScaleRule,
    rank: int | None,
    layer: str,
) -> float:
    alpha = options.alpha
    if alpha is None and uses_alpha(rule, rank):
        alpha = config.alpha(layer)
    return scale_of(rule, alpha=alpha, rank=rank, path=tensors.path, layer=layer)
