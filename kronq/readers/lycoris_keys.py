"""Keys of files of LyCORIS, kohya's scripts and trainers like them: layers, parts, and the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.base_weights import BaseWeights
from kronq.io.tensors import Tensors
from kronq.model.flat_names import PREFIX, flatten, is_flat, strip_prefix
from kronq.readers import locon, loha, lokr
from kronq.readers.known_paths import known_layer, restore_dots

_PARTS = (
    *(*lokr.PARTS, *loha.PARTS, *locon.PARTS, *locon.ALIASES),
    *("alpha", "dora_scale", "scalar"),
)
_KEY = re.compile(rf"(?P<layer>.+)\.(?P<part>{'|'.join(map(re.escape, _PARTS))})")
CARRIED = re.compile(r".+\.(diff|diff_b|w_norm|b_norm|set_weight)|bundle_emb\..+")
"""Trained parts that are no ΔW of a layer."""
_ALGORITHMS = (
    ("GLoRA", re.compile(r"(.+)\.(a1|a2|b1|b2|bm)\.weight")),
    ("OFT or BOFT", re.compile(r"(.+)\.(oft_blocks|oft_diag|rescale|oft_[rR](\.weight)?)")),
    ("IA³", re.compile(r"(.+)\.on_input")),
    ("T-LoRA", re.compile(r"(.+)\.(q_layer\.weight|p_layer\.weight|lambda_layer)")),
    ("LoCon with sparse residuals", re.compile(r"(.+)\.bias_(indices|values|size)")),
)
"""What else LyCORIS writes, by the tensors that only it has."""
_ENCODER = re.compile(r"(?P<encoder>te\d*)_(?P<rest>.+)")
_PIPELINES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.")
"""Fronts of dotted keys: the part of a pipeline that they belong to, and no module of it."""
_FLAT_PIPELINE = re.compile(r"lora_(transformer|prior_unet)_")
"""The same in OneTrainer's flattened keys."""
_HUNYUAN = re.compile(r"_blocks_\d+_((img|txt)_(mod_linear|mlp_fc[12])|modulation_linear)$")
"""Flattened names that HunyuanVideo has and Flux, whose other names are the same, has not."""


@dataclass(frozen=True)
class LayerKeys:
    """Tensor names of one layer.

    Attributes:
        key: What they begin with.
        parts: Part → tensor name.
    """

    key: str
    parts: dict[str, str]


def is_lycoris(names: Iterable[str]) -> bool:
    """Tells whether tensor names are those of this format."""
    marks = (".lokr_w", ".hada_w", f".{locon.UP}", f".{locon.DOWN}")
    fronts = (*_PIPELINES, "text_encoder")
    return any(
        any(mark in name for mark in marks)
        or (name.startswith(fronts) and any(name.endswith(f".{alias}") for alias in locon.ALIASES))
        for name in names
    )


def is_other_algorithm(names: Iterable[str]) -> bool:
    """Tells whether a file that no reader knows is one of LyCORIS's other algorithms."""
    names = [*names]
    flat = any(map(PREFIX.match, names)) or any(name.endswith(".alpha") for name in names)
    others = (pattern.fullmatch(name) for name in names for _, pattern in _ALGORITHMS)
    return any(map(CARRIED.fullmatch, names)) or (flat and any(others))


def split_keys(
    file: Tensors, base: BaseWeights | None = None
) -> tuple[dict[str, LayerKeys], list[str]]:
    """Splits a file's tensors by layer.

    Args:
        file: Any file.
        base: The base, whose layers' names tell where flattened ones had dots.

    Returns:
        Layer's name → its tensors; and the tensors that are carried.

    Raises:
        FormatError: Two tensors are one part of a layer, or two keys name one layer.
        UnsupportedError: Tensors of another algorithm, or unknown ones.
    """
    groups: dict[str, dict[str, str]] = {}
    carried, unknown = [], []
    for tensor in file.entries:
        match = _KEY.fullmatch(tensor)
        if match:
            part = locon.ALIASES.get(match["part"], match["part"])
            other = groups.setdefault(match["layer"], {}).setdefault(part, tensor)
            if other != tensor:
                raise FormatError(
                    "two tensors are the same part of one layer",
                    path=file.path,
                    layer=match["layer"],
                    found=listing([other, tensor]),
                    code="duplicate",
                )
        elif CARRIED.fullmatch(tensor):
            carried.append(tensor)
        else:
            unknown.append(tensor)
    lone = [key for key, parts in groups.items() if not parts.keys() - {"alpha", "scalar"}]
    if unknown:
        raise _other_algorithms(file, unknown)
    for key in lone:  # α of a layer whose whole weight is trained
        if any(tensor.rpartition(".")[0] == key for tensor in carried):
            carried += groups.pop(key).values()
    return _named(file, groups, base), carried


def module_path(key: str, *, hunyuan: bool = False) -> str:
    """Returns the module path that a key stands for; the key itself where that is not known."""
    if not is_flat(key):
        return key
    name = strip_prefix(key)
    encoder = _ENCODER.fullmatch(name)
    if encoder:
        path = restore_dots(encoder["rest"])
        return key if path is None else f"{encoder['encoder']}.{path}"
    paths = {restore_dots(name, hunyuan=hunyuan)}
    part = _FLAT_PIPELINE.match(key)
    if part:
        known = known_layer(key[part.end() :], hunyuan=hunyuan)
        if known is not None and known.image:
            paths |= {restore_dots(key[part.end() :], hunyuan=hunyuan)}
    found = [path for path in paths if path is not None]
    return found[0] if len(found) == 1 else key


def _named(
    file: Tensors, groups: dict[str, dict[str, str]], base: BaseWeights | None
) -> dict[str, LayerKeys]:
    paths: dict[str, set[str]] = {}
    for path in base.layers if base is not None else ():
        paths.setdefault(flatten(path), set()).add(path)
    hunyuan = any(_HUNYUAN.search(key) for key in groups)
    front = _pipeline(groups)
    layers: dict[str, LayerKeys] = {}
    for key, parts in groups.items():
        bare = key.removeprefix(front)
        own = paths.get(strip_prefix(bare), set()) if is_flat(bare) else set()
        name = own.pop() if len(own) == 1 else module_path(bare, hunyuan=hunyuan)
        if name in layers:
            raise FormatError(
                "two keys name one layer", path=file.path, layer=name, found=key, code="duplicate"
            )
        layers[name] = LayerKeys(key, parts)
    return layers


def _pipeline(keys: Iterable[str]) -> str:
    """Returns the front that names a part of a pipeline; it stays in keys of other parts.

    A language model may begin with ``transformer.`` as well: its paths are no image model's.
    """
    for key in keys:
        for front in _PIPELINES:
            if key.startswith(front):
                known = known_layer(key.removeprefix(front))
                if front != "transformer." or (known is not None and known.image):
                    return front
    return ""


def _other_algorithms(file: Tensors, unknown: list[str]) -> UnsupportedError:
    """Returns the error that names the algorithms, how many layers each has, and the tensors."""
    counts: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for tensor in unknown:
        for name, pattern in _ALGORITHMS:
            match = pattern.fullmatch(tensor)
            if match:
                counts[name] += (name, match[1]) not in seen
                seen.add((name, match[1]))
                break
    kinds = ", ".join(f"{name} on {n:,} layer{'s' * (n != 1)}" for name, n in counts.items())
    return UnsupportedError(
        f"layers of another algorithm: {kinds}" if kinds else "tensors that kronq does not know",
        path=file.path,
        found=listing(unknown),
        expected="LoKr, LoRA, LoCon or LoHa",
        hint="train them with one of these, or merge them into the base" if kinds else None,
        code="unknown-tensors",
    )
