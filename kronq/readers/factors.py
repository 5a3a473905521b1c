"""Raw Kron-LoRA factors: ``<layer>.A``, ``<layer>.B1``, ``<layer>.B2`` in one safetensors file.

The paper's shapes (arXiv 2508.01961) may exceed the layer's: a_out·b_out ≥ d_out. Optional metadata
of the file: ``alpha`` (a number), ``base_model``, and ``shapes`` (JSON: layer → [d_out, d_in]). A
layer without a shape has the full Kronecker shape until a base crops it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kronq import limits
from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.json_file import refuse_repeated_names
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import Delta, Product
from kronq.model.layer_names import natural_key
from kronq.model.matrix import Float
from kronq.readers.options import Options
from kronq.readers.scale_rule import scale_of

_KEY = re.compile(r"(?P<layer>.+)\.(?P<part>A|B1|B2)")


def detect(path: Path) -> bool:
    """Tells whether a path is a safetensors file with ``….B1`` and ``….B2`` tensors."""
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
    alpha = options.alpha if options.alpha is not None else _read_alpha(file)
    if alpha is None and options.scale_rule != "one":
        raise FormatError("no alpha in the file's metadata", path=path, hint="give it: {alpha=32}")
    shapes = _read_shapes(file)
    groups = _group_factors(file)
    layers = {}
    for name in sorted(groups, key=natural_key):
        a, b = _read_products(file, name, groups[name])
        scale = scale_of(
            options.scale_rule or "peft", alpha=alpha, rank=b.rank, path=path, layer=name
        )
        whole = Delta.uncropped(a, b, scale)
        shape = shapes.get(name, whole.shape)
        if not all(0 < size <= full for size, full in zip(shape, whole.shape, strict=True)):
            raise FormatError(
                "the factors are too small for the layer",
                path=path,
                layer=name,
                found=f"A ⊗ B of {list(whole.shape)}",
                expected=f"at least {list(shape)}",
                code="factors",
            )
        layers[name] = replace(whole, shape=shape)
    base = file.metadata.get("base_model")
    origin = Origin(
        *("factors", path, file.size, base),
        cropped_by_base=not shapes,
        tensors=file.path,
        scale_rule=options.scale_rule or "peft",
    )
    return Adapter(layers, origin)


def _group_factors(file: Tensors) -> dict[str, dict[str, Float]]:
    """Returns layer → part → matrix."""
    unknown = [tensor for tensor in file.entries if not _KEY.fullmatch(tensor)]
    if unknown:
        raise UnsupportedError(
            "tensors that are not Kron-LoRA factors",
            path=file.path,
            found=listing(unknown),
            code="unknown-tensors",
        )
    groups: dict[str, dict[str, Float]] = {}
    for tensor in file.entries:
        layer, _, part = tensor.rpartition(".")
        groups.setdefault(layer, {})[part] = Float(file.matrix(tensor))
    return groups


def _read_products(
    file: Tensors, layer: str, parts: Mapping[str, Float]
) -> tuple[Product, Product]:
    """Returns A and B."""
    if len(parts) != 3 or parts["B1"].shape[1] != parts["B2"].shape[0]:
        raise FormatError(
            "incomplete or mismatched factors",
            path=file.path,
            layer=layer,
            found=", ".join(f"{k} {list(m.shape)}" for k, m in sorted(parts.items())),
            expected="A [a_out, a_in], B1 [b_out, r], B2 [r, b_in]",
            code="factors",
        )
    limits.RANK.check(parts["B1"].shape[1], file.path, layer)
    return Product(parts["A"]), Product(parts["B1"], parts["B2"])


def _read_alpha(file: Tensors) -> float | None:
    text = file.metadata.get("alpha")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise FormatError("alpha is not a number", path=file.path, found=repr(text)) from None


def _read_shapes(file: Tensors) -> dict[str, tuple[int, int]]:
    text = file.metadata.get("shapes")
    if text is None:
        return {}
    try:
        shapes: dict[str, Any] = json.loads(text, object_pairs_hook=refuse_repeated_names)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "the metadata's shapes are not JSON", path=file.path, found=str(error), code="not-json"
        ) from None
    try:
        return {name: (int(rows), int(cols)) for name, (rows, cols) in shapes.items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise FormatError(
            "the metadata's shapes are not layer → [d_out, d_in]", path=file.path, found=text[:80]
        ) from None
