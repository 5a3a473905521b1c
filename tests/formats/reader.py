"""A reader of the packed file written from formats/SPEC.md alone: nothing but Python's own library.

The stream of coded matrices is ``stream.py``'s.

As a reader in another language would, it uses neither kronq nor safetensors nor numpy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.formats import stream

Rows = list[list[float]]


def read(path: Path) -> dict[str, Rows]:
    """Reads the ΔW of every layer, row by row; of a core scale · C."""
    manifest, tensors = _open(path)
    coded = _coded(manifest, tensors)
    deltas: dict[str, Rows] = {}
    for g, group in enumerate(manifest["groups"]):
        names = _names(group)
        for i, name in enumerate(names):
            if _is_coded(group["B1"]):
                factors = next(coded)
            else:
                factors = {
                    role: _matrix(tensors, f"{g}.{role}", group[role], i, len(names))
                    for role in ("A", "A2", "B1", "B2")
                    if role in group
                }
            deltas[name] = _delta(factors, _scale(group, i), *group["shape"])
    return deltas


def read_beside(path: Path) -> dict[str, dict[str, Any]]:
    """Reads what is beside the factors: kernels, magnitudes, keys and cores; carried tensors."""
    manifest, tensors = _open(path)
    layers: dict[str, Any] = {}
    digests = tensors.get("bases", b"")
    for g, group in enumerate(manifest["groups"]):
        names, keys = _names(group), group.get("keys")
        if isinstance(keys, list):
            keys = [key for template in keys for key in _expand(template)]
        elif keys is not None:
            keys = [keys + name.replace(".", "_") for name in names]
        for i, name in enumerate(names):
            layers[name] = {"kernel": group["kernel"]} if "kernel" in group else {}
            if "magnitude" in group:
                spec = group["magnitude"]
                rows = _matrix(tensors, f"{g}.magnitude", spec, i, len(names))
                layers[name]["magnitude"] = rows
            if keys is not None:
                layers[name]["key"] = keys[i]
            if "core" in group:
                digest, digests = digests[:2].hex(), digests[2:]
                layers[name]["core"] = {"shape": group["core"], "digest": digest}
    carried = {name: tensors[f"carried.{name}"] for name in manifest.get("carried", [])}
    return {"layers": layers, "carried": carried, "bases": manifest.get("bases")}


def _open(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    payload = data[8 + size :]
    metadata = header.pop("__metadata__")
    manifest = json.loads(metadata["kronq"])
    assert manifest["version"] in (1, 2, 3, 4)
    if manifest["version"] == 4 or "checksum" in metadata:
        assert data[37:59].decode() == metadata["checksum"] == _checksum(data)
    return manifest, {name: _bytes(entry, payload) for name, entry in header.items()}


def _checksum(data: bytes) -> str:
    digest = hashlib.sha256(data[:37] + b"0" * 22 + data[59:]).digest()[:16]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _names(group: dict[str, Any]) -> list[str]:
    return [name for template in group["layers"] for name in _expand(template)]


def _scale(group: dict[str, Any], index: int) -> float:
    return group["scale"][index] if isinstance(group["scale"], list) else group["scale"]


def _is_coded(spec: dict[str, Any]) -> bool:
    return not {"dtype", "bits", "widths"} & spec.keys()


def _coded(manifest: dict[str, Any], tensors: dict[str, bytes]) -> Iterator[dict[str, Rows]]:
    """Yields the factors of every coded layer, in order."""
    layers, names = [], []
    for group in manifest["groups"]:
        if not _is_coded(group["B1"]):
            continue
        products = [
            [role for role in pair if role in group] for pair in (("A", "A2"), ("B1", "B2"))
        ]
        shapes = [[tuple(group[role]["shape"]) for role in pair] for pair in products if pair]
        for i, _ in enumerate(_names(group)):
            layers.append((shapes, _scale(group, i)))
            names.append([pair for pair in products if pair])
    if layers:
        codes = manifest["codes"]
        shifts = codes.get("shifts", [0, 0, 0])
        found = stream.decode(
            tensors["codes"],
            layers,
            codes["step"],
            shifts,
            layer_steps=codes.get("layer_steps", False),
        )
        for roles, products in zip(names, found, strict=True):
            yield {
                role: matrix
                for pair, matrices in zip(roles, products, strict=True)
                for role, matrix in zip(pair, matrices, strict=True)
            }


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
    if spec.get("widths"):
        return _mixed(tensors, name, spec, index, layers)
    slab = _slab(tensors[name], index, layers)
    if "dtype" in spec:
        values = _floats(slab, spec["dtype"])
    else:
        scaled = spec.get("scaled", True)
        scales = _floats(
            _slab(tensors[f"{name}.scale"], index, layers) if scaled else b"", "float16"
        )
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
            values.append(code * (scales[place] if scaled else 1.0))
    return [values[r * cols : (r + 1) * cols] for r in range(rows)]


def _mixed(
    tensors: dict[str, bytes], name: str, spec: dict[str, Any], index: int, layers: int
) -> Rows:
    """Reads the channels of a layer, after those of the layers before."""
    by_rows = spec["axis"] == 0
    channels, length = spec["shape"] if by_rows else spec["shape"][::-1]
    scaled = spec.get("scaled", True)
    scales = iter(_floats(tensors[f"{name}.scale"] if scaled else b"", "float16"))
    data, found = tensors[name], list[list[float]]()
    for layer in range(index + 1):
        nibbles = _slab(tensors[f"{name}.widths"], layer, layers)
        found = []
        for channel in range(channels):
            bits = nibbles[channel // 2] >> (4 if channel % 2 else 0) & 15
            if not bits:
                found.append([0.0] * length)
                continue
            size = -(-length * bits // 8)
            scale = next(scales) if scaled else 1.0
            found.append([code * scale for code in _codes(data[:size], bits, length)])
            data = data[size:]
    return found if by_rows else [list(row) for row in zip(*found, strict=True)]


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
