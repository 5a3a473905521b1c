"""A reader of the packed file written from formats/SPEC.md alone: nothing but Python's own library.

It is what somebody would write in another language, so it uses no kronq, no safetensors, no numpy.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

Rows = list[list[float]]


def read(path: Path) -> dict[str, Rows]:
    """Layer → ΔW, row by row."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    payload = data[8 + size :]
    manifest = json.loads(header.pop("__metadata__")["kronq"])
    assert manifest["version"] == 1
    tensors = {name: _bytes(entry, payload) for name, entry in header.items()}
    deltas: dict[str, Rows] = {}
    for g, group in enumerate(manifest["groups"]):
        names = [name for template in group["layers"] for name in _expand(template)]
        for i, name in enumerate(names):
            factors = {
                role: _matrix(tensors, f"{g}.{role}", group[role], i, len(names))
                for role in ("A", "A2", "B1", "B2")
                if role in group
            }
            scale = group["scale"][i] if isinstance(group["scale"], list) else group["scale"]
            deltas[name] = _delta(factors, scale, *group["shape"])
    return deltas


def _bytes(entry: dict[str, Any], payload: bytes) -> bytes:
    start, stop = entry["data_offsets"]
    return payload[start:stop]


def _expand(template: str) -> list[str]:
    match = re.search(r"\{([^}]*)\}", template)
    if match is None:
        return [template]
    head, tail = template[: match.start()], template[match.end() :]
    names = []
    for run in match.group(1).split(","):
        first, _, last = run.partition("-")
        names += [f"{head}{n}{tail}" for n in range(int(first), int(last or first) + 1)]
    return names


def _slab(data: bytes, index: int, layers: int) -> bytes:
    size = len(data) // layers
    return data[index * size : (index + 1) * size]


def _matrix(
    tensors: dict[str, bytes], name: str, spec: dict[str, Any], index: int, layers: int
) -> Rows:
    rows, cols = spec["shape"]
    slab = _slab(tensors[name], index, layers)
    if "dtype" in spec:
        values = _floats(slab, spec["dtype"])
    else:
        scales = _floats(_slab(tensors[f"{name}.scale"], index, layers), "float16")
        codes, values = _codes(slab, spec["bits"], rows * cols), []
        group = spec.get("group_size")
        for i, code in enumerate(codes):
            row, col = divmod(i, cols)
            channel, other = (col, row) if spec["axis"] == 1 else (row, col)
            if group is None:
                place = channel
            elif spec["axis"] == 1:
                place = other // group * cols + channel
            else:
                place = channel * -(-cols // group) + other // group
            values.append(code * scales[place])
    return [values[r * cols : (r + 1) * cols] for r in range(rows)]


def _codes(slab: bytes, bits: int, count: int) -> list[int]:
    number = int.from_bytes(slab, "little")
    raw = [number >> (i * bits) & (2**bits - 1) for i in range(count)]
    return [code - 2**bits if code >= 2 ** (bits - 1) else code for code in raw]


def _floats(data: bytes, dtype: str) -> list[float]:
    if dtype == "bfloat16":
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    code, size = ("e", 2) if dtype == "float16" else ("f", 4)
    return list(struct.unpack(f"<{len(data) // size}{code}", data))


def _product(left: Rows, right: Rows | None) -> Rows:
    if right is None:
        return left
    columns = list(zip(*right, strict=True))
    return [[sum(x * y for x, y in zip(row, col, strict=True)) for col in columns] for row in left]


def _delta(factors: dict[str, Rows], scale: float, d_out: int, d_in: int) -> Rows:
    a = _product(factors.get("A", [[1.0]]), factors.get("A2"))
    b = _product(factors["B1"], factors.get("B2"))
    b_out, b_in = len(b), len(b[0])
    return [
        [scale * a[i // b_out][j // b_in] * b[i % b_out][j % b_in] for j in range(d_in)]
        for i in range(d_out)
    ]
