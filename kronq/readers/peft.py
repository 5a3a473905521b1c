"""PEFT folders: LoKr and LoRA, written by ``PeftModel.save_pretrained``.

Shapes come from the tensors, never from the config: PEFT's own factorization rule has changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.safetensors_file import TensorFile, open_tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.model.layer_names import natural
from kronq.model.matrix import Float
from kronq.readers import lokr
from kronq.readers.options import Options
from kronq.readers.scale_rule import ScaleRule, scale_of

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
    "use_qalora",
    "alora_invocation_tokens",
)

# Initializations that take a part of the base into the factors: ΔW is then not B·A alone.
SHIFTS_BASE = re.compile(r"pissa.*|olora|corda.*|loftq|lora_ga", re.IGNORECASE)


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
    init = str(config.get("init_lora_weights"))
    if SHIFTS_BASE.fullmatch(init):
        raise UnsupportedError(
            "the adapter belongs to a base that its initialization changed",
            path=folder / CONFIG,
            found=f"init_lora_weights {init!r}",
            hint="save it with PEFT's path_initial_model_for_weight_conversion",
        )
    kind = config["peft_type"]
    layers = _lokr(file, config, options) if kind == "LOKR" else _lora(file, config, options)
    if not layers:
        raise FormatError("no adapted layers", path=file.path)
    ordered = {name: layers[name] for name in sorted(layers, key=natural)}
    base = config.get("base_model_name_or_path")
    name = base if isinstance(base, str) and base else None
    return Adapter(ordered, Origin("peft", path, file.size, name))


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
    """Tensor name → (layer, part); every tensor that is not one is listed in the error.

    Of an adapted ``lm_head`` or ``embed_tokens`` PEFT saves the frozen weight as well
    (``save_embedding_layers``): it is the base's, and left to the base.
    """
    names, unknown = {}, []
    for tensor in file.entries:
        match = re.fullmatch(pattern, tensor)
        if match:
            names[tensor] = (match["layer"].removeprefix(PREFIX), match["part"])
        else:
            unknown.append(tensor)
    frozen = {f"{PREFIX}{layer}.base_layer.weight" for layer, _ in names.values()}
    unknown = [tensor for tensor in unknown if tensor not in frozen]
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
        rank = found.rank
        if rule not in ("lycoris", "one"):
            rank = _rank(file, config, name, found.rank)
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
        if rule not in ("lycoris", "one") and "r" in config:
            _rank(file, config, name, b.rank)
        scale = _scale(file, config, options, rule, "lora_alpha", b.rank, name)
        layers[name] = Delta(ONE, b, scale, b.shape)
    return layers


def _rank(file: TensorFile, config: Mapping[str, Any], layer: str, stored: int | None) -> Any:
    """The config's rank of a layer, which the scale divides by: that of the tensors, if they tell.

    Raises:
        FormatError: The two differ, so one of them gives a wrong scale; PEFT cannot load it either.
    """
    rank = _setting(file, config, "rank_pattern", "r", layer)
    if stored not in (None, rank):
        raise FormatError(
            "the config's rank is not that of the tensors",
            path=file.path,
            layer=layer,
            found=stored,
            expected=rank,
            hint="correct it, or {scale_rule=lycoris}, which divides by the tensors' rank",
        )
    return rank


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
        alpha = _setting(file, config, "alpha_pattern", key, layer)
    return scale_of(rule, alpha=alpha, rank=rank, path=file.path, layer=layer)


def _setting(
    file: TensorFile, config: Mapping[str, Any], pattern: str, key: str, layer: str
) -> Any:
    """A per-layer setting, matched as PEFT's ``get_pattern_key`` does; else the general one."""
    path = file.path.parent / CONFIG
    patterns = config.get(pattern) or {}
    if not isinstance(patterns, dict):
        raise FormatError(f"{pattern} is not layer → number", path=path, found=repr(patterns))
    for expression, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({expression})$", layer)
        except (re.error, RecursionError, OverflowError) as error:
            raise FormatError(f"{pattern} has a bad expression: {error}", path=path) from None
        if matches:
            return _number(path, value, f"{pattern}[{expression!r}]")
    return _number(path, config.get(key), key)


def _number(path: Path, value: Any, name: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(value, int) and abs(value) > 2**63):
        raise FormatError(f"{name} is not a number", path=path, found=repr(value)[:80])
    return value
