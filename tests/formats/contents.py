"""What stands in formats/: the schemas of the models, and small files with what they mean.

    python -m tests.formats

writes it anew, after a change that is meant; the tests check that it is up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from kronq.adapter import Adapter, Origin, Recipe
from kronq.delta import ONE, Delta, Product
from kronq.matrix import Float, Quantized, scale_shape
from kronq.metrics.report import Report
from kronq.packed import pack
from kronq.packed.manifest import Manifest
from tests.adapters import dense

FORMATS = Path(__file__).parents[2] / "formats"


def contents() -> dict[str, bytes]:
    """Path below formats/ → what belongs there."""
    found = {
        "manifest.schema.json": _schema(Manifest, "validation"),
        "report.schema.json": _schema(Report, "serialization"),
    }
    for name, adapter in golden().items():
        found[f"golden/{name}.safetensors"] = pack(adapter)
        found[f"golden/{name}.json"] = _expected(adapter)
    return found


def golden() -> dict[str, Adapter]:
    """Adapters of small whole numbers and powers of two: every ΔW is exact in float64."""
    two = {f"h.{i}.attn": _small_kron(i) for i in range(2)}
    lora = {
        f"layers.{i}.q_proj": Delta(
            ONE,
            Product(codes(5, 2, 8, axis=1, seed=i), codes(2, 7, 8, axis=0, group_size=3, seed=i)),
            scale,
            (5, 7),
        )
        for i, scale in ((0, 2.0), (2, -0.75), (10, 0.0))
    }
    a = Product(floats(2, 2, np.float32), floats(2, 3, ml_dtypes.bfloat16))
    mixed = {
        "h.0.mlp": Delta(
            Product(codes(3, 3, 4, axis=0)),
            Product(codes(3, 3, 2, axis=1, group_size=2), codes(3, 5, 3, axis=0)),
            0.125,
            (9, 15),
        ),
        "h.01.mlp": Delta(
            ONE, Product(floats(2, 1, np.float16), floats(1, 3, np.float16)), 1.5, (2, 3)
        ),
        "lm_head": Delta(a, Product(codes(3, 5, 3, axis=0)), 1.0, (6, 14)),
    }
    return {
        "kron-int4": Adapter(two, Origin("memory"), Recipe("rtn", 4)),
        "lora-int8": Adapter(lora, Origin("memory", base_model="maker/base")),
        "mixed": Adapter(mixed, Origin("memory", cropped_by_base=True)),
    }


def _small_kron(index: int) -> Delta:
    """3·2 = 6 rows of which one is cropped; 6 codes of 4 bits, 3 bytes, for each of B1 and B2."""
    a = Float(np.array([[1, 2 + index], [-1, 0.5]], np.float16))
    b1 = Quantized(
        np.array([[1, -2], [3, -4], [5, -8]], np.int8), np.array([0.5, 0.25], np.float16), 4, 1
    )
    b2 = Quantized(
        np.array([[7, 6, 5], [-1, 0, 1 + index]], np.int8), np.array([1, 2], np.float16), 4, 0
    )
    return Delta(Product(a), Product(b1, b2), 0.5, (5, 6))


def floats(rows: int, cols: int, dtype: Any) -> Float:
    return Float(((np.arange(rows * cols).reshape(rows, cols) - 2) / 4).astype(dtype))


def codes(
    rows: int, cols: int, bits: int, *, axis: int, group_size: int | None = None, seed: int = 0
) -> Quantized:
    """Codes that run through their whole range, and scales that are powers of two."""
    count = 2**bits
    values = (np.arange(rows * cols) * 5 + seed * 3) % count - count // 2
    shape = scale_shape((rows, cols), axis, group_size)
    scale = 2.0 ** (np.arange(int(np.prod(shape))) % 5 - 3)
    return Quantized(
        values.astype(np.int8).reshape(rows, cols),
        scale.astype(np.float16).reshape(shape),
        bits,
        axis,
        group_size,
    )


def _expected(adapter: Adapter) -> bytes:
    layers = {name: {"delta": _rows(dense(delta))} for name, delta in adapter.items()}
    lines = [
        f'    {json.dumps(name)}: {{"delta": [\n'
        + ",\n".join(f"      {json.dumps(row)}" for row in layer["delta"])
        + "]}"
        for name, layer in layers.items()
    ]
    return ('{\n  "layers": {\n' + ",\n".join(lines) + "\n  }\n}\n").encode()


def _rows(values: NDArray[np.float64]) -> list[list[float]]:
    return [[float(x) + 0.0 for x in row] for row in values]


def _schema(model: type[BaseModel], mode: Any) -> bytes:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= model.model_json_schema(mode=mode)
    return (json.dumps(schema, indent=2, ensure_ascii=False) + "\n").encode()
