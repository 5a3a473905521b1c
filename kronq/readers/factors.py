"""Raw Kron-LoRA factors: ``<layer>.A``, ``<layer>.B1``, ``<layer>.B2`` in one safetensors file.

The paper's shapes (arXiv 2508.01961) may overshoot: a_out·b_out ≥ d_out. Metadata of the file, all
optional: ``alpha`` (a number), ``base_model``, and ``shapes`` (JSON: layer → [d_out, d_in]). Where
``shapes`` is silent, ΔW has the full Kronecker shape until a base crops it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.safetensors_file import TensorFile, open_tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import Delta, Product
from kronq.model.layer_names import natural
from kronq.model.matrix import Float
from kronq.readers.options import Options
from kronq.readers.scale_rule import scale_of

_KEY = re.compile(r"(?P<layer>.+)\.(?P<part>A|B1|B2)")


def detect(path: Path) -> bool:
    """A safetensors file with ``….B1`` and ``….B2`` tensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    names = open_tensors(path).entries
    return any(n.endswith(".B1") and f"{n[:-1]}2" in names for n in names)


def read(path: Path, options: Options) -> Adapter:
    """Reads raw factors.

    Raises:
        FormatError: No α anywhere, incomplete factors, or shapes that do not fit.
        UnsupportedError: Tensors that are not factors.
    """
    file = open_tensors(path)
    alpha = options.alpha if options.alpha is not None else _alpha(file)
    if alpha is None and options.scale_rule != "one":
        raise FormatError("no alpha in the file's metadata", path=path, hint="give it: {alpha=32}")
    groups: dict[str, dict[str, Float]] = {}
    unknown = [t for t in file.entries if not _KEY.fullmatch(t)]
    if unknown:
        raise UnsupportedError(
            "tensors that are not Kron-LoRA factors", path=path, found=listing(unknown)
        )
    for tensor in file.entries:
        layer, _, part = tensor.rpartition(".")
        groups.setdefault(layer, {})[part] = Float(file.matrix(tensor))
    shapes = _shapes(file)
    layers = {}
    for name in sorted(groups, key=natural):
        parts = groups[name]
        if len(parts) != 3 or parts["B1"].shape[1] != parts["B2"].shape[0]:
            raise FormatError(
                "incomplete or mismatched factors",
                path=path,
                layer=name,
                found=", ".join(f"{k} {list(m.shape)}" for k, m in sorted(parts.items())),
                expected="A [a_out, a_in], B1 [b_out, r], B2 [r, b_in]",
            )
        a, b = Product(parts["A"]), Product(parts["B1"], parts["B2"])
        scale = scale_of(
            options.scale_rule or "peft", alpha=alpha, rank=b.rank, path=path, layer=name
        )
        full = a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]
        shape = shapes.get(name, full)
        if not all(0 < d <= f for d, f in zip(shape, full, strict=True)):
            raise FormatError(
                "the factors are too small for the layer",
                path=path,
                layer=name,
                found=f"A ⊗ B of {list(full)}",
                expected=f"at least {list(shape)}",
            )
        layers[name] = Delta(a, b, scale, shape)
    base = file.metadata.get("base_model")
    return Adapter(layers, Origin("factors", path, file.size, base, cropped_by_base=not shapes))


def _alpha(file: TensorFile) -> float | None:
    text = file.metadata.get("alpha")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise FormatError("alpha is not a number", path=file.path, found=repr(text)) from None


def _shapes(file: TensorFile) -> dict[str, tuple[int, int]]:
    text = file.metadata.get("shapes")
    if text is None:
        return {}
    try:
        shapes: dict[str, Any] = json.loads(text)
        return {name: (int(rows), int(cols)) for name, (rows, cols) in shapes.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise FormatError(
            "the metadata's shapes are not layer → [d_out, d_in]", path=file.path, found=text[:80]
        ) from None
