"""Seeded changes of files by their structure: a value, a missing one, one too many, cut bytes."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.attacks.hostile import join, split

DEEP: Any = {}
for _ in range(300):
    DEEP = {"a": [DEEP]}

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e300),
    *(float("nan"), float("inf"), "", "x", "0", "nan", "a\0b", "\ud800", "../x", "/etc/passwd"),
    *("q" * 5000, "(a+)+$", "[", "{0-999999999}", "\u2028", "\x1b[2J", [], {}, [[]], [1, 2, 3]),
    *([None], {"a": 1}, {"": {}}, [0] * 1000, DEEP),
)


def change_json(rng: random.Random, value: Any) -> Any:
    """Returns the value with one place of it changed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        kind = rng.random()
        if kind < 0.15:
            del value[key]
        elif kind < 0.25 and isinstance(value, list):
            value.append(value[key])
        elif kind < 0.25:
            value[rng.choice(["x", "", key + "2", key.upper()])] = value[key]
        elif kind < 0.35:
            value[key] = value[rng.choice(keys)]
        else:
            value[key] = change_json(rng, value[key])
        return value
    if isinstance(value, str) and rng.random() < 0.5:
        return change_bytes(rng, value.encode()).decode("utf-8", "replace")
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice([value + 1, value - 1, -value, value * 2, value * 10**6, str(value)])
    return rng.choice(JUNK)


def json_bytes(rng: random.Random, value: Any) -> bytes:
    """Writes a value as JSON; sometimes a name is there twice, or the text is damaged."""
    text = json.dumps(value).encode("utf-8", "replace")
    kind = rng.random()
    if kind < 0.1:
        return change_bytes(rng, text)
    if kind < 0.15 and text.startswith(b'{"'):
        name = text[1 : text.index(b'"', 2) + 1]
        return b"{" + name + b": 7, " + text[1:]
    if kind < 0.18:
        return b"[" * rng.choice([50, 5000, 200_000])
    if kind < 0.2:
        return rng.choice([b"", b"\xef\xbb\xbf" + text, b"\xff\xfe", b"7" * 5000, text * 2])
    return text


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flips bits, or cuts, repeats, or replaces a piece."""
    if not data:
        return rng.randbytes(rng.randrange(9))
    at, length = rng.randrange(len(data)), rng.choice([1, 1, 4, 8, 64])
    kind = rng.random()
    if kind < 0.4:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 3])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind < 0.55:
        return data[:at]
    if kind < 0.65:
        return data[:at] + data[at + length :]
    if kind < 0.75:
        return data[:at] + data[at : at + length] * 2 + data[at + length :]
    pieces = (rng.randbytes(length), b"\xff" * length, bytes(length), b"9" * length, b"[{" * length)
    return data[:at] + rng.choice(pieces) + data[at + length :]


def change_tensors(rng: random.Random, data: bytes) -> bytes:
    """Changes a safetensors file: its header, strings beside the tensors, or its bytes."""
    size = int.from_bytes(data[:8], "little")
    header, payload = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = rng.random()
    if kind < 0.1:
        return change_bytes(rng, data)
    if kind < 0.35:
        return data[: 8 + size] + change_bytes(rng, payload)
    if kind < 0.6:
        name = rng.choice(list(header))
        other = rng.choice(list(header))
        change = rng.random()
        if change < 0.4:
            header[rng.choice([name + "x", "", other + ".weight", name.lower()])] = header.pop(name)
        elif change < 0.6:
            del header[name]
        elif name != "__metadata__" and other != "__metadata__":
            one, two = header[name], header[other]
            key = rng.choice(["shape", "dtype", "data_offsets"])
            one[key], two[key] = two[key], one[key]
        return join(json.dumps(header).encode("utf-8", "replace"), payload)
    metadata = header.get("__metadata__")
    if metadata and rng.random() < 0.7:
        _change_metadata(rng, metadata)
        return join(json.dumps(header).encode("utf-8", "replace"), payload)
    return join(json_bytes(rng, change_json(rng, header)), payload)


def change_unsealed(rng: random.Random, data: bytes) -> bytes:
    """Changes a packed file, whose checksum stays as it is, at its place or not."""
    kind = rng.random()
    if kind < 0.4:
        return change_bytes(rng, data)
    header, payload = split(change_tensors(rng, data))
    if kind < 0.6:
        return join(json.dumps(header).encode("utf-8", "replace"), payload)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + payload


def _change_metadata(rng: random.Random, metadata: dict[str, Any]) -> None:
    name = rng.choice(list(metadata))
    try:
        inner = json.loads(metadata[name])
    except (ValueError, TypeError):
        metadata[name] = str(rng.choice(JUNK))
    else:
        changed = json_bytes(rng, change_json(rng, inner))
        metadata[name] = changed.decode("utf-8", "replace")
