"""PEFT folders: LoKr and LoRA, written by ``PeftModel.save_pretrained``.

Shapes come from the tensors, never from the config: PEFT's own factorization rule has changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronq.adapter import Adapter, Origin
from kronq.delta import ONE, Delta, Product
from kronq.errors import FormatError, UnsupportedError, listing
from kronq.matrix import Float
from kronq.naming import natural
from kronq.sources import lokr
from kronq.sources.options import Options
from kronq.sources.scale import ScaleRule, scale_of
from kronq.tensors import TensorFile, open_tensors

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."

# Settings that change ΔW, or add weights beside it, in ways the normal form does not have.
REFUSED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
)


def detect(path: Path) -> bool:
    """A folder with PEFT's config or weights, or either file of one."""
    if path.is_dir():
        return any((path / name).exists() for name in (CONFIG, WEIGHTS, "adapter_model.bin"))
    return path.name in (CONFIG, WEIGHTS)


def read(path: Path, options: Options) -> Adapter:
    """Reads a PEFT folder.

    Raises:
        FormatError: The config or the weights are missing, damaged or incomplete.
        UnsupportedError: Another ``peft_type``, a convolution, DoRA, or trained full modules.
    """
    folder = path if path.is_dir() else path.parent
    config = _config(folder)
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        open_tensors(folder / "adapter_model.bin")
    file = open_tensors(folder / WEIGHTS)
    refused = [name for name in REFUSED if config.get(name)]
    if config.get("bias", "none") != "none":
        refused.append("bias")
    if refused:
        raise UnsupportedError(
            "the adapter uses settings that kronq does not handle",
            path=folder / CONFIG,
            found=listing(refused),
        )
    kind = config["peft_type"]
    layers = _lokr(file, config, options) if kind == "LOKR" else _lora(file, config, options)
    if not layers:
        raise FormatError("no adapted layers", path=file.path)
    ordered = {name: layers[name] for name in sorted(layers, key=natural)}
    base = config.get("base_model_name_or_path") or None
    return Adapter(ordered, Origin("peft", path, file.size, base))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise FormatError(
            f"no {CONFIG} beside the weights",
            path=folder,
            hint="alpha and the ranks are in it: copy it from where the adapter was trained",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not valid JSON: {error}", path=path) from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in ("LOKR", "LORA"):
        raise UnsupportedError(
            "the peft_type is not supported", path=path, found=kind, expected="LOKR or LORA"
        )
    return dict(config)


def _names(file: TensorFile, pattern: str) -> dict[str, tuple[str, str]]:
    """Tensor name → (layer, part); every tensor that is not one is listed in the error."""
    names, unknown = {}, []
    for tensor in file.entries:
        match = re.fullmatch(pattern, tensor)
        if match:
            names[tensor] = (match["layer"].removeprefix(PREFIX), match["part"])
        else:
            unknown.append(tensor)
    if unknown:
        raise UnsupportedError(
            "tensors that belong to no supported layer", path=file.path, found=listing(unknown)
        )
    return names


def _lokr(file: TensorFile, config: Mapping[str, Any], options: Options) -> dict[str, Delta]:
    parts = "|".join((*lokr.PARTS, *lokr.CONV))
    groups = lokr.group(file, _names(file, rf"(?P<layer>.+)\.(?P<part>{parts})"))
    layers = {}
    for name, tensors in groups.items():
        found = lokr.factors(file, name, tensors)
        rule = options.scale_rule or "peft"
        rank = found.rank if rule == "lycoris" else _setting(config, "rank_pattern", "r", name)
        scale = _scale(file, config, options, rule, "alpha", rank, name)
        shape = (
            found.a.shape[0] * found.b.shape[0],
            found.a.shape[1] * found.b.shape[1],
        )
        layers[name] = Delta(found.a, found.b, scale, shape)
    return layers


def _lora(file: TensorFile, config: Mapping[str, Any], options: Options) -> dict[str, Delta]:
    pairs: dict[str, dict[str, Float]] = {}
    for tensor, (name, part) in _names(
        file, r"(?P<layer>.+)\.(?P<part>lora_[AB])(\.default)?\.weight"
    ).items():
        if len(file.entries[tensor].shape) > 2:
            raise UnsupportedError(
                "LoRA on convolutions is not supported",
                path=file.path,
                found=listing(t for t, e in file.entries.items() if len(e.shape) > 2),
            )
        pairs.setdefault(name, {})[part] = Float(file.matrix(tensor))
    default: ScaleRule = "rslora" if config.get("use_rslora") else "peft"
    layers = {}
    for name, pair in pairs.items():
        if len(pair) != 2 or pair["lora_B"].shape[1] != pair["lora_A"].shape[0]:
            raise FormatError(
                "incomplete or mismatched factors",
                path=file.path,
                layer=name,
                found=", ".join(f"{k} {list(m.shape)}" for k, m in sorted(pair.items())),
                expected="lora_A [r, d_in] and lora_B [d_out, r]",
            )
        b = Product(pair["lora_B"], pair["lora_A"])
        rule = options.scale_rule or default
        scale = _scale(file, config, options, rule, "lora_alpha", b.rank, name)
        layers[name] = Delta(ONE, b, scale, b.shape)
    return layers


def _scale(
    file: TensorFile,
    config: Mapping[str, Any],
    options: Options,
    rule: ScaleRule,
    key: str,
    rank: int | None,
    layer: str,
) -> float:
    alpha = options.alpha
    if alpha is None:
        alpha = _setting(config, "alpha_pattern", key, layer)
    return scale_of(rule, alpha=alpha, rank=rank, path=file.path, layer=layer)


def _setting(config: Mapping[str, Any], pattern: str, key: str, layer: str) -> Any:
    """A per-layer setting, matched as PEFT's ``get_pattern_key`` does; else the general one."""
    for expression, value in (config.get(pattern) or {}).items():
        try:
            matches = re.match(rf"(.*\.)?({expression})$", layer)
        except re.error as error:
            raise FormatError(f"{pattern} has a bad expression: {error}", path=CONFIG) from None
        if matches:
            return _number(value, f"{pattern}[{expression!r}]")
    return _number(config.get(key), key)


def _number(value: Any, name: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"{name} is not a number", path=CONFIG, found=repr(value))
    return value
