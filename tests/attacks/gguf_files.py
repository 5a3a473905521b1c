"""A good GGUF file, its structure, and seeded changes of it: counts, lengths, types, places."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np

from kronq.base.gguf_blocks import read_blocks
from kronq.base.gguf_sizes import check_gguf
from kronq.io.gguf_file import open_gguf
from kronq.writers.gguf_base import read_base
from tests.attacks.mutations import change_bytes

Atom = tuple[str, int | float | bytes]
"""A value and how it is stored: a letter of ``struct``'s, or ``s`` for bytes."""

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
ALIGNMENT = 32
NUMBERS = (0, 1, 2, 3, 7, 8, 9, 31, 33, 99, 255, 2**16, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
SIZES = {
    **{"block_count": 1, "embedding_length": 32, "feed_forward_length": 32, "vocab_size": 40},
    **{"attention.head_count": 2, "attention.head_count_kv": 1},
}
SHAPES = {
    "token_embd": ("F32", (40, 32)),
    "blk.0.attn_q": ("Q4_0", (32, 32)),
    "blk.0.attn_k": ("Q8_0", (16, 32)),
    "blk.0.ffn_up": ("Q4_1", (32, 32)),
    "blk.0.ffn_down": ("F16", (32, 32)),
    "blk.0.ffn_norm": ("F32", (32,)),
}


def write_good(folder: Path) -> None:
    """Writes a llama of one layer: values of every kind, tensors of five types."""
    import gguf

    writer = gguf.GGUFWriter(str(folder / "x.gguf"), "llama")
    writer.add_type("model")
    for name, size in SIZES.items():
        writer.add_uint32(f"llama.{name}", size)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_token_list([f"t{i}" for i in range(40)])
    writer.add_token_scores([float(i) for i in range(40)])
    writer.add_token_types([1] * 40)
    for name, (kind, shape) in SHAPES.items():
        values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        stored = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(values, stored)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(folder: Path, rng: random.Random) -> None:
    """Reads a file as ``kronq base`` and ``kronq convert --to gguf`` do before they go on."""
    path = folder / "x.gguf"
    use = rng.randrange(3)
    if use == 0:
        read_base(str(path))
    elif use == 1:
        check_gguf(path)
    else:
        for tensor in open_gguf(path).tensors:
            blocks = read_blocks(tensor)
            assert blocks is None or blocks.shape == tuple(tensor.shape[::-1])


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, kind: str, size: int = 0) -> Atom:
        layout = struct.Struct(f"<{size}s" if kind == "s" else f"<{kind}")
        (value,) = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return kind, value

    def text(self) -> list[Atom]:
        length = self.take("Q")
        return [length, self.take("s", int(length[1]))]

    def value(self, kind: int) -> list[Atom]:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return [self.take(SCALARS[kind])]
        head = [self.take("I"), self.take("Q")]
        items = [atom for _ in range(int(head[1][1])) for atom in self.value(int(head[0][1]))]
        return [*head, *items]


def split(data: bytes) -> tuple[list[list[Atom]], bytes]:
    """Splits a file into its head, its settings and its tensors, and the data of these."""
    cursor = _Cursor(data)
    head = [cursor.take("s", 4), cursor.take("I"), cursor.take("Q"), cursor.take("Q")]
    entries = [head]
    for _ in range(int(head[3][1])):
        name, kind = cursor.text(), cursor.take("I")
        entries.append([*name, kind, *cursor.value(int(kind[1]))])
    for _ in range(int(head[2][1])):
        name, count = cursor.text(), cursor.take("I")
        dims = [cursor.take("Q") for _ in range(int(count[1]))]
        entries.append([*name, count, *dims, cursor.take("I"), cursor.take("Q")])
    return entries, data[-(-cursor.at // ALIGNMENT) * ALIGNMENT :]


def join(entries: list[list[Atom]], payload: bytes) -> bytes:
    atoms = [atom for entry in entries for atom in entry]
    head = b"".join(
        value if isinstance(value, bytes) else struct.pack(f"<{kind}", value)
        for kind, value in atoms
    )
    return head + bytes(-len(head) % ALIGNMENT) + payload


def change_gguf(rng: random.Random, data: bytes) -> bytes:
    """Changes one value, or an entry: one missing, twice, or in another's place; or bytes."""
    entries, payload = split(data)
    kind = rng.random()
    if kind < 0.1:
        return change_bytes(rng, data)
    if kind < 0.2:
        return join(entries, change_bytes(rng, payload))
    i, j = (rng.randrange(1, len(entries)) for _ in range(2))
    if kind < 0.25:
        entries[i], entries[j] = entries[j], entries[i]
    elif kind < 0.35:
        count = rng.choice([-1, 1])
        entries[i : i + 1] = [] if count < 0 else [entries[i]] * 2
        if rng.random() < 0.8:  # counted, so that what follows is read as what it was
            place = 2 if i >= len(entries) - len(SHAPES) else 3
            entries[0][place] = ("Q", int(entries[0][place][1]) + count)
    else:
        entry = entries[rng.choice([0, i, i, i, len(entries) - 1 - rng.randrange(len(SHAPES))])]
        place = rng.randrange(min(len(entry), 9))
        entry[place] = change_atom(rng, *entry[place])
        if entry[place][0] == "s" and place:
            entry[place - 1] = ("Q", len(entry[place][1]))  # type: ignore[arg-type]
    return join(entries, payload)


def change_atom(rng: random.Random, kind: str, value: int | float | bytes) -> Atom:
    if isinstance(value, bytes):
        return kind, change_bytes(rng, value)
    if kind in "fd?":
        return kind, rng.choice([0, 1, -1, float("nan"), float("inf")])
    bits = 8 * struct.calcsize(kind)
    changed = rng.choice([value + 1, value - 1, value * 2, value * 10**6, *NUMBERS])
    changed = int(changed) % 2**bits
    return kind, changed - 2**bits if kind.islower() and changed >= 2 ** (bits - 1) else changed
