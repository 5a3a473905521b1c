"""The entropy-coded stream, decoded from formats/SPEC.md alone: nothing but Python's own library.

Slow, and meant to be read beside the specification; most names are those used there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Rows = list[list[float]]
Shape = tuple[int, int]
StepOffsets = tuple[int, int, int]
LANE = 128


def decode(
    data: bytes,
    layers: list[tuple[list[list[Shape]], float]],
    step: float,
    shifts: list[int],
    *,
    layer_steps: bool = False,
) -> list[list[list[Rows]]]:
    """Returns the values of every matrix, by layer, product and side.

    ``layers`` has the shapes of every product and the layer's scale.
    """
    coder = RangeDecoder(data)
    products = [product for shapes, _ in layers for product in shapes]
    counts = [1 if len(p) == 1 else p[0][1] for p in products]
    firsts = numbers(coder, len(products))
    rest = iter(numbers(coder, sum(counts) - len(products)))
    norm_classes: list[list[int | None]] = []
    last: dict[bool, int] = {}
    at = 0
    for shapes, _ in layers:
        for p, product in enumerate(shapes):
            is_b = p == len(shapes) - 1
            number = last[is_b] = firsts[at] + last.get(is_b, 0)
            found = [number]
            for _ in range(counts[at] - 1):
                found.append(found[-1] + next(rest))
            least = length_class(min(lengths(product)))
            norm_classes.append([m - 7 + least if m else None for m in found])
            at += 1
    offsets = [(0, 0, 0)] * len(layers)
    if layer_steps:
        offsets = sum_step_offsets(numbers(coder, 3 * len(layers)))
    added: list[tuple[int, int]] = []  # of every product, what is added to its matrices' classes
    for (shapes, _), (_, left, right) in zip(layers, offsets, strict=True):
        added += [(0, 0)] * (len(shapes) - 1) + [(left, right)]
    levels = runs(coder, products, norm_classes, added)
    coder.check_end()
    return values(layers, norm_classes, levels, step, shifts, [own[0] for own in offsets])


def sum_step_offsets(differences: list[int]) -> list[StepOffsets]:
    """Returns every layer's step offsets."""
    found, last = list[StepOffsets](), (0, 0, 0)
    for i in range(0, len(differences), 3):
        step, left, right = (a + b for a, b in zip(last, differences[i : i + 3], strict=True))
        last = (step, left, right)
        assert max(map(abs, last)) <= 400
        found.append(last)
    return found


class RangeDecoder:
    def __init__(self, data: bytes) -> None:
        self.words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self.low, self.range = 0, 2**64 - 1
        self.point = self.next() << 32 | self.next()

    def next(self) -> int:
        return self.words.pop(0) if self.words else 0

    def read(self, frequencies: list[int]) -> int:
        """Reads a symbol; returns its index."""
        scale = self.range >> 24
        quantile = ((self.point - self.low) % 2**64) // scale
        before = symbol = 0
        while quantile >= before + frequencies[symbol]:
            before += frequencies[symbol]
            symbol += 1
        self.low = (self.low + scale * before) % 2**64
        self.range = scale * frequencies[symbol]
        if self.range < 2**32:
            self.low = self.low << 32 & 2**64 - 1
            self.range <<= 32
            self.point = (self.point << 32 & 2**64 - 1) | self.next()
        return symbol

    def uniform(self, n: int) -> int:
        each = 2**24 // n
        return self.read([each] * (n - 1) + [2**24 - each * (n - 1)])

    def check_end(self) -> None:
        assert not any(self.words)
        assert (self.point - self.low) % 2**64 < 2**33 - 1


def length_class(n: int) -> int:
    """L(n)."""
    return int(math.log2(2 * n**4)) // 2


def power(quarters: int) -> int:
    """P(quarters / 4)."""
    whole, part = divmod(quarters, 4)
    fourth = math.isqrt(math.isqrt(2 ** (96 + part)))
    return fourth << (whole - 24) if whole >= 24 else fourth >> (24 - whole)


@dataclass
class Table:
    """Counts of one context class and parity."""

    c: int
    o: int
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        c = min(self.c, 40)
        self.W = 4 + 3 * power(4 * 8 + c) // 256
        V = power(4 * 20 + 2 * c) + 2**18
        p = []
        for k in range(self.W + 1):
            x = 2 * k - self.o if k else 0
            e = 12100567 * x * x // V
            root = 2 ** (16 * 30 - e % 16)
            for _ in range(4):
                root = math.isqrt(root)
            p.append(root >> min(e // 16, 40))
        p[0] //= 2
        self.counts = [max(64, 2**18 * each // (2 * sum(p))) for each in p]

    def frequencies(self) -> list[int]:
        q = [2 * self.counts[0], *self.counts[1:]]
        q = q[:0:-1] + q
        n, total, shift = len(q), sum(q), 0
        while total >> shift >= 2**38:
            shift += 1
        q = [each >> shift for each in q]
        shares = [each * (2**24 - n) // sum(q) for each in q]
        shares[self.W] += 2**24 - n - sum(shares)
        return [share + 1 for share in shares]

    def add(self, symbol: int) -> None:
        self.counts[min(abs(symbol), self.W)] += 4096


def block(coder: RangeDecoder, frequencies: list[int], top: int, count: int) -> list[int]:
    """Reads ``count`` symbols, and then the escapes of the largest."""
    symbols = [coder.read(frequencies) - top for _ in range(count)]
    for i, symbol in enumerate(symbols):
        if abs(symbol) == top:
            bits = coder.uniform(20)
            rest = 2**bits - 1 + (coder.uniform(2**bits) if bits else 0)
            symbols[i] += rest if symbol > 0 else -rest
    return symbols


def numbers(coder: RangeDecoder, count: int) -> list[int]:
    table, found = Table(10, 0), list[int]()
    while len(found) < count:
        size = min(max(16, len(found) // 2), count - len(found))
        part = block(coder, table.frequencies(), table.W, size)
        for number in part:
            table.add(number)
        found += part
    return found


def lengths(product: list[Shape]) -> list[int]:
    return [product[0][0] * product[0][1]] if len(product) == 1 else [product[0][0], product[1][1]]


Key = tuple[int, int, int]
"""A product, a side, a channel."""


def runs(
    coder: RangeDecoder,
    products: list[list[Shape]],
    norm_classes: list[list[int | None]],
    added: list[tuple[int, int]],
) -> dict[Key, list[int]]:
    """Reads the levels of every channel that is not empty."""
    members: dict[tuple[int, int], list[tuple[Key, int]]] = {}
    for p, product in enumerate(products):
        for side, length in enumerate(lengths(product)):
            for channel, s in enumerate(norm_classes[p]):
                if s is not None:
                    key = (side, s - length_class(length) + added[p][side])
                    members.setdefault(key, []).append(((p, side, channel), length))
    order = sorted(members)
    totals = {key: sum(length for _, length in members[key]) for key in order}
    lanes = {key: [list[int]() for _ in range(-(-totals[key] // LANE))] for key in order}
    states = {key: [0] * len(lanes[key]) for key in order}
    tables = {(c, o): Table(c, o) for _, c in order for o in (0, 1)}
    uncounted: dict[tuple[int, int], list[int]] = {key: [] for key in tables}
    frequencies = {key: table.frequencies() for key, table in tables.items()}
    for t in range(LANE):
        if t in (1, 2, 4, 8, 16, 32, 64):
            for key, symbols in uncounted.items():
                for symbol in symbols:
                    tables[key].add(symbol)
                symbols.clear()
                frequencies[key] = tables[key].frequencies()
        for key in order:
            c = key[1]
            long_enough = [i for i in range(len(lanes[key])) if i * LANE + t < totals[key]]
            parities = {i: states[key][i] % 2 for i in long_enough}
            for o in (0, 1):
                chosen = [i for i in long_enough if parities[i] == o]
                symbols = block(coder, frequencies[c, o], tables[c, o].W, len(chosen))
                uncounted[c, o] += symbols
                for i, k in zip(chosen, symbols, strict=True):
                    lanes[key][i].append(2 * k - o * ((k > 0) - (k < 0)))
                    z = states[key][i]
                    states[key][i] = z // 2 ^ (18 if o else 0) ^ (4 if k % 2 else 0)
    found: dict[Key, list[int]] = {}
    for key in order:
        flat = [level for lane in lanes[key] for level in lane]
        for place, length in members[key]:
            found[place], flat = flat[:length], flat[length:]
    return found


def values(
    layers: list[tuple[list[list[Shape]], float]],
    norm_classes: list[list[int | None]],
    levels: dict[Key, list[int]],
    step: float,
    shifts: list[int],
    steps: list[int],
) -> list[list[list[Rows]]]:
    result: list[list[list[Rows]]] = []
    at = 0
    for (shapes, layer_scale), own in zip(layers, steps, strict=True):
        of_b = 2 ** (own / 4) / (abs(layer_scale) or 1.0)
        of_a = [s for s in norm_classes[at] if s is not None]
        result.append([])
        for p, product in enumerate(shapes):
            if len(shapes) == 1:
                f = step * of_b
            else:
                f = step if p == 0 else 2 ** (-product_norm_class(of_a) / 4) * of_b
            scales = [reconstruction_scale(product, f, s) for s in norm_classes[at]]
            matrices: list[Any] = []
            for side, (rows, cols) in enumerate(product):
                matrix = [[0.0] * cols for _ in range(rows)]
                for channel, w in enumerate(scales):
                    line = [value(v, shifts) * w for v in levels.get((at, side, channel), [])]
                    for i, x in enumerate(line):
                        if len(product) == 1:
                            matrix[i // cols][i % cols] = x
                        elif side == 0:
                            matrix[i][channel] = x
                        else:
                            matrix[channel][i] = x
                matrices.append(matrix)
            result[-1].append(matrices)
            at += 1
    return result


def product_norm_class(norm_classes: list[int]) -> int:
    """Returns S, from the norm classes of A's channels."""
    if not norm_classes:
        return 0
    m = min(0, *norm_classes)
    total = 1 + sum(power(4 * 20 + 2 * (s - m)) for s in norm_classes)
    return m + int((total * total).bit_length() - 1) - 40


def reconstruction_scale(product: list[Shape], f: float, s: int | None) -> float:
    if s is None:
        return 0.0
    return f if len(product) == 1 else math.sqrt(f * 2 ** (-s / 4))


def value(v: int, shifts: list[int]) -> float:
    k = (abs(v) + 1) // 2
    shift = shifts[min(k, 3) - 1] / 256 if k else 0.0
    return math.copysign(abs(v) - shift, v)
