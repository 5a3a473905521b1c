"""PEFT adapters: folders of ``PeftModel.save_pretrained``, and state dicts.

Shapes come from the tensors, never from the config: PEFT's own factorization rule has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, StrPath, UnsupportedError, check_text, check_type
from kronq.io.safetensors_file import TensorFile, open_tensors
from kronq.io.tensors import Tensors, as_arrays, copy_tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.frozen_bases import LORA_XS
from kronq.model.layer_names import natural_key
from kronq.readers.missing_layers import refuse_missing_layers
from kronq.readers.options import Options, find_folder
from kronq.readers.peft_bare import bare_config, is_bare
from kronq.readers.peft_carried import split_carried
from kronq.readers.peft_config import CONFIG, WEIGHTS, PeftConfig, read_config
from kronq.readers.peft_names import refuse_weights_beside
from kronq.readers.peft_tuners import reader_of
from kronq.readers.peft_tuners.lora_xs import find_mappings
from kronq.readers.repeated import kind_of, read_repeated, remember
from kronq.readers.scale_rule import ScaleRule

_PICKLED_WEIGHTS = "adapter_model.bin"

_LORA = ("LORA", "LORAGA")
_WITH_ALPHA = ("ADALORA", "GRALORA", "LOHA", "LOKR")
_INDEX = f"{WEIGHTS}.index.json"


def detect(path: Path) -> bool:
    """Tells whether a path is a folder of PEFT's, either file of one, or its tensors alone."""
    if path.is_dir():
        return any((path / name).exists() for name in (CONFIG, WEIGHTS, _PICKLED_WEIGHTS))
    return path.name in (CONFIG, WEIGHTS) or is_bare(path)


def read(path: Path, options: Options) -> Adapter:
    """Reads a PEFT folder, or a file of its tensors alone.

    Raises:
        FormatError: The config or the weights are missing, damaged or incomplete.
        UnsupportedError: A tuner or a setting that kronq does not read.
    """
    folder = path if path.is_dir() else path.parent
    weights = folder / WEIGHTS if path.is_dir() or path.name == CONFIG else path
    no_config = options.alpha is not None and not (folder / CONFIG).exists()
    if weights.name != WEIGHTS or (no_config and weights.exists()):
        return _read_bare(weights, options)
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
    return _read_adapter(file, config, options, _origin(path, file, config))


def _read_bare(path: Path, options: Options) -> Adapter:
    file = open_tensors(path)
    config = bare_config(file, options)
    config.check_supported()
    return _read_adapter(file, config, options, _origin(path, file, config))


def _origin(path: Path, file: TensorFile, config: PeftConfig) -> Origin:
    return Origin("peft", path, file.size, config.base_model, tensors=file.path)


def read_state_dict(
    tensors: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    base_weights: StrPath | None = None,
    initial: StrPath | None = None,
) -> Adapter:
    """Reads a PEFT adapter that is held in memory; see ``Adapter.from_state_dict``."""
    check_type("config", settings, Mapping)
    arrays = as_arrays(tensors)
    kind = kind_of(arrays, settings) if base_weights is None and initial is None else None
    if kind is not None and (repeated := read_repeated(kind, arrays)) is not None:
        return repeated
    config = PeftConfig(settings)
    config.check_supported()
    for name in (*tensors, config.base_model or ""):
        if isinstance(name, str):
            check_text("a name", name)
    origin = Origin("peft", base_model=config.base_model)
    options = Options(
        base_weights=find_folder("base_weights", base_weights, "base"),
        initial=find_folder("initial", initial, "adapter"),
    )
    copies = copy_tensors(arrays)
    adapter = _read_adapter(copies, config, options, origin)
    if kind is not None:
        remember(kind, copies.arrays, adapter)
    return adapter if kind is None else read_repeated(kind, arrays) or adapter


def _read_adapter(
    tensors: Tensors, config: PeftConfig, options: Options, origin: Origin
) -> Adapter:
    read_layers = reader_of(config)
    origin = replace(origin, scale_rule=_scale_rule(config, options))
    if find_mappings(tensors):
        origin = replace(origin, system=LORA_XS)
    rest, carried = split_carried(tensors, config)
    layers = read_layers(rest, config, options)
    if not layers:
        raise FormatError("no adapted layers", path=tensors.path)
    refuse_missing_layers(config, layers, tensors.path)
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    return Adapter(ordered, origin, carried=carried)


def _scale_rule(config: PeftConfig, options: Options) -> ScaleRule | None:
    """Returns the rule by which the tuner's α becomes a scale; None for tuners without one."""
    if options.scale_rule is not None:
        return options.scale_rule
    if config.kind in _LORA:
        return "rslora" if config.settings.get("use_rslora") else "peft"
    return "peft" if config.kind in _WITH_ALPHA else None
