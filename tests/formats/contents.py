"""Contents of formats/: schemas of the models, and small packed files with their ΔW.

    python -m tests.formats

rewrites them, after an intended change; the tests check that they are up to date.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from kronq.model.adapter import Adapter, Origin, Provenance, Recipe, TaskCheck
from kronq.model.delta import ONE, Delta, Product
from kronq.model.frozen_bases import (
    SHORT_DIGEST,
    BasisRecipe,
    FrozenBases,
    FrozenBasis,
    joint_digest,
)
from kronq.model.layer_names import natural_key
from kronq.model.matrix import Float, Quantized, scale_shape, with_widths
from kronq.packed import pack_adapter
from kronq.packed.manifest import Manifest
from kronq.report.report import Report
from kronq.trellis.coded_layers import build_coded_layers
from kronq.trellis.layer_shape import LayerShape
from kronq.trellis.norm_classes import EMPTY_CHANNEL, NO_OFFSETS, StepOffsets
from kronq.trellis.product_target import LayerTarget
from kronq.trellis.rounding import RoundedLevels
from kronq.trellis.run_levels import RunLevels
from kronq.trellis.states import NEXT_STATE, levels_from_codes
from kronq.trellis.stream_layout import LANE, lay_out_stream
from tests.adapters import dense
from tests.paths import ROOT

INEXACT = ("coded", "layer_steps")
"""Golden files whose scales are roots, so that sums of products depend on their order."""
PROVENANCE = Provenance("lycoris", "00" * 11 + "ff", "lycoris", "fb" * 12, "0.1.0")
FORMATS = ROOT / "formats"


def contents() -> dict[str, bytes]:
    """Returns the bytes of every file below formats/, by path."""
    found = {
        "manifest.schema.json": _schema(Manifest, "validation"),
        "report.schema.json": _schema(Report, "serialization"),
    }
    for name, adapter in golden().items():
        found[f"golden/{name}.safetensors"] = pack_adapter(adapter)
        found[f"golden/{name}.json"] = _expected(adapter, exact=name not in INEXACT)
    return found


def golden() -> dict[str, Adapter]:
    """Returns small adapters of whole numbers and powers of two; ΔW is exact but in ``INEXACT``."""
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
        "lora-int8": Adapter(
            lora, Origin("memory", base_model="maker/base"), provenance=PROVENANCE
        ),
        "mixed": Adapter(mixed, Origin("memory", cropped_by_base=True)),
        "coded": coded(),
        "layer_steps": layer_steps(),
        "widths": Adapter(_mixed_widths(), Origin("memory"), Recipe("native", 2.5)),
        "convolutions": convolutions(),
        "cores": cores(),
    }


def convolutions() -> Adapter:
    """Returns convolutions and a linear layer, with magnitudes, source keys and a carried bias."""
    small = Product(codes(2, 2, 4, axis=1), codes(2, 9, 4, axis=0))
    layers = {
        f"down.{i}.conv": Delta(
            Product(floats(2, 2, np.float16)), small, 0.5, (4, 18), (3, 3), floats(1, 2, np.float32)
        )
        for i in range(2)
    }
    layers["mid.conv"] = Delta.uncropped(ONE, Product(codes(3, 4, 4, axis=0)), 2.0, (2,))
    layers["mid.proj"] = Delta(ONE, small, 1.0, (2, 9), magnitude=floats(2, 1, ml_dtypes.bfloat16))
    keys = {name: "lora_unet_" + name.replace(".", "_") for name in layers if "down" in name}
    keys["mid.conv"] = "unet.mid.conv"
    carried = {"mid.proj.diff_b": np.array([1, -0.5], np.float16), "steps": np.array(7, np.int64)}
    return Adapter(layers, Origin("memory", keys=keys), Recipe("rtn", 4), carried)


def cores() -> Adapter:
    """Returns two cores of LoRA-XS of one shape, one of another, and a layer that has its bases."""
    layers = {
        f"h.{i}.attn": Delta(ONE, Product(codes(3, 3, 4, axis=1, seed=i)), 0.5, (3, 3))
        for i in range(2)
    }
    layers["h.0.mlp"] = Delta(ONE, Product(codes(3, 3, 4, axis=1, seed=2)), 0.5, (3, 3))
    layers["lm_head"] = Delta(
        ONE, Product(codes(4, 2, 4, axis=1), codes(2, 5, 4, axis=0)), 1.0, (4, 5)
    )
    shapes = {"h.0.attn": (8, 5), "h.1.attn": (8, 5), "h.0.mlp": (5, 6)}
    digests = {name: hashlib.sha256(name.encode()).digest() for name in shapes}
    frozen = {name: FrozenBasis(shape, digests[name]) for name, shape in shapes.items()}
    bases = FrozenBases(frozen, joint_digest(digests), BasisRecipe(7, 123))
    return Adapter(layers, Origin("memory"), Recipe("rtn", 4), bases=bases)


def _mixed_widths() -> dict[str, Delta]:
    """Returns channels of every width, a layer without any bits, a whole B, and an int8 A."""
    a = Quantized(np.array([[100, -50], [3, 127]], np.int8), None, 8, 0)
    widths = {
        "h.0": ([5, 0, 3], [2, 0, 8]),
        "h.1": ([0, 0, 0], [0, 0, 0]),
        "h.2": ([7, 6, 4], [3, 2, 4]),
    }
    found = {
        name: Delta(
            Product(a),
            Product(channels(5, 3, left, axis=1), channels(3, 7, right, axis=0, scaled=False)),
            0.0625,
            (9, 14),
        )
        for name, (left, right) in widths.items()
    }
    whole = channels(3, 5, [8, 0, 3], axis=0)
    return found | {"lm_head": Delta(ONE, Product(whole), -2.0, (3, 5))}


def channels(
    rows: int, cols: int, widths: list[int], *, axis: int, scaled: bool = True
) -> Quantized:
    """Returns codes that run through the range of each channel's width."""
    values = np.zeros((rows, cols), dtype=np.int8)
    by_channel = values if axis == 0 else values.T
    for i, bits in enumerate(widths):
        if bits:
            by_channel[i] = (np.arange(by_channel.shape[1]) * 5 + 2) % 2**bits - 2 ** (bits - 1)
    scale = (2.0 ** (np.arange(len(widths)) % 5 - 3)).astype(np.float16)
    by_channel_widths = np.array(widths, dtype=np.uint8)
    scale[by_channel_widths == 0] = 0
    return with_widths(values, by_channel_widths, axis, scale if scaled else None)


def coded() -> Adapter:
    """Returns a stream of made-up levels with every kind of product, and escapes."""
    shapes = {
        "h.0.attn": LayerShape((((2, 2),), ((9, 3), (3, 8))), 2.0),
        "h.1.attn": LayerShape((((2, 2),), ((9, 3), (3, 8))), 2.0),
        "h.0.mlp": LayerShape((((2, 1), (1, 3)), ((5, 4),)), -0.5),
        "lm_head": LayerShape((((70, 2), (2, 3)),), 1.0),
    }
    classes = [
        [[9], [20, EMPTY_CHANNEL, 7]],
        [[9], [15, 12, EMPTY_CHANNEL]],
        [[8], [14]],
        [[14, 14]],
    ]
    return replace(layers_of_classes(shapes, classes), recipe=Recipe("compact", 1.5))


def layer_steps() -> Adapter:
    """Returns the same with step offsets, some of them negative, and the check of a task."""
    shapes = {
        "h.0.attn": LayerShape((((2, 2),), ((9, 3), (3, 8))), 2.0),
        "h.1.attn": LayerShape((((2, 2),), ((9, 3), (3, 8))), 2.0),
        "h.0.q": LayerShape((((6, 2), (2, 11)),), 0.5),
        "h.1.q": LayerShape((((6, 2), (2, 11)),), -3.0),
        "h.0.mlp": LayerShape((((2, 1), (1, 3)), ((5, 4),)), -0.5),
        "h.0.up": LayerShape((((2, 2),), ((3, 2), (2, 5))), 1.0),
    }
    classes = [[[9], [20, EMPTY_CHANNEL, 7]], [[9], [15, 12, 4]], [[6, 14]], [[14, 9]], [[8], [14]]]
    classes.append([[EMPTY_CHANNEL], [EMPTY_CHANNEL, EMPTY_CHANNEL]])
    offsets = [
        StepOffsets(*each)
        for each in ((3, -2, 5), (-6, 0, 9), (-11, 4, -4), (0, 0, 0), (7, 3, 2), (40, -1, 0))
    ]
    task = TaskCheck("dev.jsonl", 60, 0.01, 0.0042, (-0.0015, 0.0099), 0.55, 0.5625)
    recipe = Recipe("compact", 2.5, task=task)
    return replace(layers_of_classes(shapes, classes, offsets), recipe=recipe)


def layers_of_classes(
    shapes: dict[str, LayerShape],
    classes: list[list[list[int]]],
    offsets: Sequence[StepOffsets] = (),
) -> Adapter:
    """Returns layers of these norm classes; levels run through a few codes, some of them large."""
    offsets = offsets or [NO_OFFSETS] * len(shapes)
    norm_classes = [[np.array(c, dtype=np.int32) for c in each] for each in classes]
    layout = lay_out_stream([*shapes.values()], norm_classes, offsets)
    flat = [
        _path(np.arange(run.size) * 7 % 11 - 5 + 300 * (np.arange(run.size) % 37 == 5))
        for run in layout.runs
    ]
    adapter = Adapter({name: _like(shape) for name, shape in shapes.items()})
    targets = [LayerTarget(s, (), own) for s, own in zip(shapes.values(), offsets, strict=True)]
    rounded = RoundedLevels(1 / 64, (20, 10, -5), norm_classes, RunLevels(layout, flat))
    return replace(adapter, layers=build_coded_layers(adapter, targets, rounded))


def _path(codes: NDArray[np.int64]) -> NDArray[np.int32]:
    """Returns the levels of codes along their lanes."""
    out, state = np.zeros(len(codes), dtype=np.int32), 0
    for i, code in enumerate(codes):
        state = 0 if i % LANE == 0 else state
        out[i] = levels_from_codes(code, np.int64(state & 1))
        state = int(NEXT_STATE[state, code & 1])
    return out


def _like(coded_shape: LayerShape) -> Delta:
    """Returns a layer of these shapes."""
    *first, b = [Product(*(floats(*s, np.float32) for s in p)) for p in coded_shape.products]
    a = first[0] if first else ONE
    shape = (a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])
    return Delta(a, b, coded_shape.scale, shape)


def _small_kron(index: int) -> Delta:
    """Returns 3·2 rows, one of them cropped; B1 and B2 are 6 codes of 4 bits each: 3 bytes."""
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
    """Returns codes that run through their whole range, with powers of two as scales."""
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


def _expected(adapter: Adapter, *, exact: bool) -> bytes:
    """Returns ΔW as JSON, with 7 digits where sums depend on their order."""
    ordered = sorted(adapter.items(), key=lambda item: natural_key(item[0]))
    layers = {name: _rows(dense(delta), exact) for name, delta in ordered}
    lines = [
        f'    {json.dumps(name)}: {{{_beside(adapter, name)}"delta": [\n'
        + ",\n".join(f"      {json.dumps(row)}" for row in rows)
        + "]}"
        for name, rows in layers.items()
    ]
    carried = {name: array.tolist() for name, array in sorted(adapter.carried.items())}
    more = f'  "carried": {json.dumps(carried)},\n' if carried else ""
    if adapter.bases is not None:
        recipe = asdict(adapter.bases.recipe or BasisRecipe())
        more += f'  "bases": {json.dumps({"digest": adapter.bases.digest, **recipe})},\n'
    return ("{\n" + more + '  "layers": {\n' + ",\n".join(lines) + "\n  }\n}\n").encode()


def _beside(adapter: Adapter, name: str) -> str:
    """Returns what else is told of a layer, as the beginning of a JSON object."""
    delta, told = adapter[name], dict[str, object]()
    if delta.kernel:
        told["kernel"] = delta.kernel
    if delta.magnitude is not None:
        told["magnitude"] = delta.magnitude.float32().tolist()
    if adapter.bases is not None and name in adapter.bases.layers:
        basis = adapter.bases.layers[name]
        told["core"] = {"shape": basis.shape, "digest": basis.digest[:SHORT_DIGEST].hex()}
    if name in adapter.origin.keys:
        told["key"] = adapter.origin.keys[name]
    return "".join(f"{json.dumps(key)}: {json.dumps(value)}, " for key, value in told.items())


def _rows(values: NDArray[np.float64], exact: bool) -> list[list[float]]:
    return [[(float(x) if exact else float(f"{x:.7g}")) + 0.0 for x in row] for row in values]


def _schema(model: type[BaseModel], mode: Any) -> bytes:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= model.model_json_schema(mode=mode)
    return (json.dumps(schema, indent=2, ensure_ascii=False) + "\n").encode()
