"""Entropy-coded levels of one step for a whole adapter: the smallest file of a given weight error.

One step for everything is reverse water-filling (Cover and Thomas, Elements of Information Theory,
10.3.3): an entry is worth bits by how far it moves ΔW, and a component of less energy than the
error gets none. In the SVD gauge B = Σ s_k·u_k·v_kᵀ an error in u_k or v_k moves ΔW by
|scale|·‖A‖·s_k times itself, so these are the units in which all factors are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from kronq.adapter import Adapter
from kronq.delta import F64, ONE, Delta, Product
from kronq.errors import FormatError
from kronq.matrix import ABSENT, F32, Coded, Known, Levels, drawn
from kronq.packed.compact import (
    LEAST_KIND,
    Outline,
    Place,
    arrange,
    axis_of,
    doubled_log2,
    encode,
    lengths,
    line,
    norm_size,
    outline,
    scales,
    unpack,
)
from kronq.packed.entropy import LANE, Counts, Run, prior
from kronq.packed.trellis import codes_of
from kronq.quantization.viterbi import I32, search

_THREADS = 2
WEIGHT = 0.42
"""λ: what a bit is worth in squared steps."""
_SAME = 1e-9

Shifts = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Target:
    """A product to be coded, as it is before rounding.

    Attributes:
        norms: Of every channel, in units of ΔW: [r], or [1] for a whole matrix.
        left: Unit columns [rows, r], or the whole matrix with norm 1.
        right: Unit columns [cols, r], or None.
    """

    norms: F64
    left: F64
    right: F64 | None


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's outline and the targets of its products, A first if it has one."""

    outline: Outline
    targets: tuple[Target, ...]


@dataclass
class Tables:
    """What codes cost, by class; learned from one pass for the next.

    Attributes:
        counts: (class, odd) → how often each magnitude was used.
        shifts: How far magnitudes are drawn towards zero, in 1/256 of a level.
    """

    counts: dict[tuple[int, int], Counts] = field(default_factory=dict)
    shifts: Shifts = (10, 6, 3)

    def cost(self, kinds: Sequence[int]) -> F32:
        """[kinds, 2, magnitudes], in bits."""
        rows = [[self._bits(kind, odd) for odd in (0, 1)] for kind in kinds]
        top = max(len(bits) for row in rows for bits in row)
        table = np.zeros((len(rows), 2, top + 1), dtype=np.float32)
        for i, row in enumerate(rows):
            for odd, bits in enumerate(row):
                table[i, odd, : len(bits)] = bits
                table[i, odd, len(bits) - 1 :] = bits[-1] + 5  # an escape and what follows it
        return table

    def _bits(self, kind: int, odd: int) -> F64:
        counts = self.counts.get((kind, odd))
        each = (prior(kind, odd) if counts is None else counts.counts).astype(np.float64)
        bits = -np.log2(each / (2 * each.sum()))
        bits[0] -= 1
        found: F64 = bits
        return found

    def learn(self, runs: Sequence[Run], levels: Sequence[I32], odd: Sequence[I32]) -> None:
        """Counts anew what was used."""
        for run, level, states in zip(runs, levels, odd, strict=True):
            for side in (0, 1):
                counts = self.counts.get((run.kind, side))
                if counts is None:
                    counts = self.counts[run.kind, side] = Counts(prior(run.kind, side))
                counts.add(codes_of(level[states == side]))


def prepare(adapter: Adapter) -> list[Layer]:
    """Every layer in the SVD gauge.

    Raises:
        FormatError: A layer has values that are not finite.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda item: _prepare(*item), adapter.items()))


def _prepare(name: str, delta: Delta) -> Layer:
    if not all(np.isfinite(m.float32()).all() for m in delta.matrices):
        raise FormatError("the layer has values that are not finite", layer=name)
    b = _target(delta.b)
    size_b = float(np.linalg.norm(b.norms))
    if delta.a is ONE:
        return Layer(outline(delta), (replace(b, norms=b.norms * abs(delta.scale)),))
    a = _target(delta.a)
    size_a = float(np.linalg.norm(a.norms))
    by_a, by_b = abs(delta.scale) * size_b, abs(delta.scale) * size_a
    a, b = replace(a, norms=a.norms * by_a), replace(b, norms=b.norms * by_b)
    return Layer(outline(delta), (a, b))


def _target(product: Product) -> Target:
    left, right = (None if x is None else x.astype(np.float64) for x in product.float32())
    assert left is not None  # noqa: S101
    if right is None:
        norm = float(np.linalg.norm(left))
        return Target(np.array([norm]), left / norm if norm else left, None)
    q1, r1 = np.linalg.qr(left)
    q2, r2 = np.linalg.qr(right.T)
    u, s, vt = np.linalg.svd(r1 @ r2.T)
    rank, inner = left.shape[1], len(s)
    norms = np.zeros(rank)
    norms[:inner] = s
    u_full, v_full = np.zeros((len(left), rank)), np.zeros((right.shape[1], rank))
    u_full[:, :inner] = q1 @ u[:, :inner]
    v_full[:, :inner] = q2 @ vt[:inner].T
    return Target(norms, u_full, v_full)


@dataclass(frozen=True, eq=False)
class Rounded:
    """An adapter's levels at one step."""

    step: float
    shifts: Shifts
    sizes: list[list[I32]]
    levels: list[list[list[I32]]]


def rounded(
    layers: Sequence[Layer],
    step: float,
    tables: Tables,
    weight: float = WEIGHT,
    *,
    learn: bool = True,
) -> tuple[Rounded, Tables]:
    """All levels at ``step``: left factors first, then right ones fitted to what left ones became.

    Returns:
        The levels, and the tables that would suit them (with ``learn``; empty ones without).
    """
    outlines = [layer.outline for layer in layers]
    sizes = [_sizes(layer, step) for layer in layers]
    runs, places = arrange(outlines, sizes)
    shifts = tables.shifts
    cost_counts = (
        tables.cost([run.kind for run in runs]) if runs else np.zeros((0, 2, 1), np.float32)
    )
    levels = [
        [[np.zeros(shape, dtype=np.int32) for shape in product] for product in o.products]
        for o in outlines
    ]
    learned = Tables()
    drifts = np.zeros((2, 4))
    lefts = [_left(layer, each, step) for layer, each in zip(layers, sizes, strict=True)]
    for side in (0, 1):
        chosen = [i for i, _ in enumerate(runs) if _side(places, i) == side]
        mine = [place for place in places if place.side == side]
        if side:
            with ThreadPoolExecutor(_THREADS) as pool:
                values = list(
                    pool.map(
                        lambda at: _right(layers[at], sizes[at], levels[at], step, shifts),
                        range(len(layers)),
                    )
                )
        else:
            values = lefts
        if not chosen:
            continue
        first = chosen[0]
        lanes, kinds = [], []
        flat: list[list[F32]] = [[] for _ in chosen]
        for place in mine:
            product = outlines[place.layer].products[place.product]
            flat[place.run - first].append(
                line(values[place.layer][place.product], product, side, place.channel)
            )
        for i, parts in zip(chosen, flat, strict=True):
            x = np.concatenate(parts)
            padded = np.zeros(-(-len(x) // LANE) * LANE, dtype=np.float32)
            padded[: len(x)] = x
            lanes.append(padded.reshape(-1, LANE))
            kinds.append(np.full(len(lanes[-1]), i, dtype=np.int32))
        x = np.concatenate(lanes)
        found, odd = search(x, np.concatenate(kinds), cost_counts, _table(shifts), weight)
        at = 0
        split, states = [], []
        for i, own in zip(chosen, lanes, strict=True):
            split.append(found[at : at + len(own)].reshape(-1)[: runs[i].size])
            states.append(odd[at : at + len(own)].reshape(-1)[: runs[i].size])
            at += len(own)
        if learn:
            learned.learn([runs[i] for i in chosen], split, states)
            _drift(drifts, x, found)
        offsets = [0] * len(chosen)
        for place in mine:
            run = place.run - first
            part = split[run][offsets[run] : offsets[run] + place.size]
            offsets[run] += place.size
            _put(levels[place.layer][place.product][side], part, outlines[place.layer], place)
    mean = drifts[0] / np.maximum(drifts[1], 1)
    one, two, three = (int(np.clip(np.rint(256 * m), -255, 255)) for m in mean[1:])
    learned.shifts = (one, two, three)
    return Rounded(step, shifts, sizes, levels), learned


def _side(places: Sequence[Place], run: int) -> int:
    return next(place.side for place in places if place.run == run)


def _put(matrix: I32, part: I32, outlined: Outline, place: Place) -> None:
    if len(outlined.products[place.product]) == 1:
        matrix[...] = part.reshape(matrix.shape)
    elif place.side == 0:
        matrix[:, place.channel] = part
    else:
        matrix[place.channel] = part


def _drift(drifts: F64, x: F32, levels: I32) -> None:
    code = np.minimum((np.abs(levels) + 1) // 2, 3)
    short = np.abs(levels) - np.abs(x) * np.where(np.sign(levels) == np.sign(x), 1, -1)
    drifts[0] += np.bincount(code.reshape(-1), short.reshape(-1), minlength=4)
    drifts[1] += np.bincount(code.reshape(-1), minlength=4)


def _table(shifts: Shifts) -> F32:
    return np.array((0, *shifts), dtype=np.float32) / np.float32(256)


def _sizes(layer: Layer, step: float) -> list[I32]:
    found = []
    for target, product in zip(layer.targets, layer.outline.products, strict=True):
        sizes = np.full(len(target.norms), ABSENT, dtype=np.int32)
        there = target.norms > 0
        sizes[there] = np.rint(4 * np.log2(target.norms[there] / step))
        sizes[sizes < LEAST_KIND + doubled_log2(min(lengths(product)))] = ABSENT
        found.append(sizes)
    if any((sizes == ABSENT).all() for sizes in found):
        return [np.full_like(sizes, ABSENT) for sizes in found]
    return found


def _amplitudes(layer: Layer, sizes: Sequence[I32], step: float, p: int) -> F64:
    """The norms of a product's channels, in levels, as it is to be coded."""
    norms = layer.targets[p].norms
    if p == 0 and len(layer.targets) == 2:
        # ‖A‖ becomes what its sizes tell, by which B is divided.
        total = float(np.linalg.norm(norms))
        return norms / total * 2.0 ** (norm_size(sizes[0]) / 4) if total else norms
    return norms / step


def _left(layer: Layer, sizes: Sequence[I32], step: float) -> list[F32]:
    """Every product's left matrix in levels, in the gauge in which all are worth the same."""
    found = []
    for p, (target, each) in enumerate(zip(layer.targets, sizes, strict=True)):
        amplitude = _amplitudes(layer, sizes, step, p)
        if target.right is None:
            found.append((target.left * amplitude).astype(np.float32))
            continue
        root = np.sqrt(amplitude * np.where(each == ABSENT, 0, 2.0 ** (each / 4)))
        found.append((target.left * root).astype(np.float32))
    return found


def _right(
    layer: Layer, sizes: Sequence[I32], levels: list[list[I32]], step: float, shifts: Shifts
) -> list[F32]:
    """Every product's right matrix [r, cols] in levels, by least squares on the coded left one."""
    found = []
    gain = 1.0
    for p, (target, each) in enumerate(zip(layer.targets, sizes, strict=True)):
        if target.right is None:
            found.append(np.zeros((0, 0), dtype=np.float32))
            continue
        there = each != ABSENT
        x = drawn(levels[p][0], shifts).astype(np.float64)
        # B in levels: left · diag(2^(-size/4)) · right, to be fitted to u·diag(amplitude)·vᵀ.
        amplitude = _amplitudes(layer, sizes, step, p) * gain
        gram = x.T @ x
        trace = float(np.trace(gram))
        cross = (x.T @ target.left) * amplitude
        solved = np.linalg.solve(gram + np.eye(len(gram)) * (_SAME * trace + 1e-300), cross)
        solved *= np.where(there, 2.0 ** (each / 4), 0)[:, None]
        found.append((solved @ target.right.T).astype(np.float32))
    return found


def build(adapter: Adapter, layers: Sequence[Layer], found: Rounded) -> dict[str, Delta]:
    """The adapter's layers with these levels as their matrices."""
    result = {}
    for i, (name, delta) in enumerate(adapter.items()):
        each = scales(layers[i].outline, found.sizes[i], found.step)
        products = [
            [
                Coded(
                    shape,
                    axis_of(shapes, side),
                    0,
                    Known(Levels(m, sizes, worth, found.step, found.shifts)),
                )
                for side, (shape, m) in enumerate(zip(shapes, matrices, strict=True))
            ]
            for shapes, matrices, sizes, worth in zip(
                layers[i].outline.products, found.levels[i], found.sizes[i], each, strict=True
            )
        ]
        result[name] = _with(delta, products)
    return result


def reread(adapter: Adapter, layers: Sequence[Layer], found: Rounded) -> dict[str, Delta]:
    """The same as they will be read from the file, each with its share of the stream."""
    codes = encode([*build(adapter, layers, found).values()])
    assert codes is not None  # noqa: S101
    data = np.frombuffer(codes.data, dtype=np.uint8)
    every = unpack(data, [layer.outline for layer in layers], codes.step, codes.shifts)
    return {
        name: _with(delta, products)
        for (name, delta), products in zip(adapter.items(), every, strict=True)
    }


def _with(delta: Delta, products: Sequence[Sequence[Coded]]) -> Delta:
    found = [Product(*matrices) for matrices in products]
    return replace(delta, a=ONE if len(found) == 1 else found[0], b=found[-1])
