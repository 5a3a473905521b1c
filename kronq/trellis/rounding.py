"""Targets to levels at one step: the trellis over all layers, left factors first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronq.model.matrix import ABSENT, F32, drawn
from kronq.trellis.entropy_coder import LANE, LOUDEST, Run, too_loud
from kronq.trellis.rate_tables import Shifts, Tables
from kronq.trellis.stream_layout import Place, arrange, line, put, zeros
from kronq.trellis.targets import Layer, left_levels, right_levels, sizes_of
from kronq.trellis.viterbi import I32, search

_PRUNINGS = 2
_FEW = 0.01
"""Of the channels: so few dead ones are not worth another pass."""
WEIGHT = 0.42
"""λ: what a bit is worth in squared steps."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Where every channel of every layer is coded at one step, and by what tables.

    Attributes:
        layers: What is coded.
        step: Of the levels.
        sizes: What is told of every channel's norm, by layer and product.
        runs: Of the stream, left ones first.
        places: What is in them.
        tables: What codes cost.
    """

    layers: Sequence[Layer]
    step: float
    sizes: list[list[I32]]
    runs: list[Run]
    places: list[Place]
    tables: Tables


def plan(
    layers: Sequence[Layer], step: float, tables: Tables, sizes: list[list[I32]] | None = None
) -> Plan:
    """How ``layers`` are coded at ``step``; with other sizes than channels have there, if given.

    Raises:
        FormatError: One would have levels that are too large to be told.
    """
    if sizes is None:
        sizes = [sizes_of(layer, step) for layer in layers]
    stretches = [layer.stretch for layer in layers]
    runs, places = arrange([layer.outline for layer in layers], sizes, stretches)
    if any(run.kind > LOUDEST for run in runs):
        raise too_loud()
    return Plan(layers, step, sizes, runs, places, tables)


@dataclass(frozen=True, eq=False)
class Rounded:
    """An adapter's levels at one step: [layer][product][side]."""

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

    Without ``learn``, channels that came out dead are left out, and the rest is rounded again.

    Returns:
        The levels, and the tables that would suit them (with ``learn``; empty ones without).
    """
    how = plan(layers, step, tables)
    if learn:
        learned = Tables()
        found = _once(how, weight, learned)
        learned.draw()
        return found, learned
    found = _once(how, weight, None)
    for _ in range(_PRUNINGS):
        sizes = _alive(found)
        if _coded(sizes) > (1 - _FEW) * _coded(found.sizes):
            break
        found = _once(plan(layers, step, tables, sizes), weight, None)
    return found, Tables()


def _coded(sizes: Sequence[Sequence[I32]]) -> int:
    return sum(int((each != ABSENT).sum()) for layer in sizes for each in layer)


def _alive(found: Rounded) -> list[list[I32]]:
    """The sizes without the channels of B of which one side is all zero: they mean nothing.

    A's own stay as they are, because B's scale goes by them, unless all of B is dead.
    """
    result = []
    for sizes, levels in zip(found.sizes, found.levels, strict=True):
        left, right = levels[-1][0], levels[-1][-1]
        alive = left.any(axis=0) & right.any(axis=1) if len(levels[-1]) == 2 else left.any()
        last = np.where(alive, sizes[-1], ABSENT).astype(np.int32)
        if (last == ABSENT).all():
            result.append([np.full_like(each, ABSENT) for each in sizes])
        else:
            result.append([*sizes[:-1], last])
    return result


def _once(how: Plan, weight: float, learned: Tables | None) -> Rounded:
    """All levels, left factors first."""
    layers, step, tables = how.layers, how.step, how.tables
    levels = no_levels(layers)
    lefts = [left_levels(layer, each, step) for layer, each in zip(layers, how.sizes, strict=True)]
    code(how, 0, lefts, levels, weight, learned)
    rights = [
        right_levels(layer, each, [drawn(sides[0], tables.shifts) for sides in found], step)
        for layer, each, found in zip(layers, how.sizes, levels, strict=True)
    ]
    code(how, 1, rights, levels, weight, learned)
    return Rounded(step, tables.shifts, how.sizes, levels)


def no_levels(layers: Sequence[Layer]) -> list[list[list[I32]]]:
    """Zeros in the shape of all matrices: [layer][product][side]."""
    return zeros([layer.outline for layer in layers])


def code(
    how: Plan,
    side: int,
    values: Sequence[Sequence[F32]],
    levels: list[list[list[I32]]],
    weight: float = WEIGHT,
    learned: Tables | None = None,
) -> None:
    """Rounds one side of every product, into ``levels``.

    Args:
        how: The plan.
        side: 0 for left matrices, and those that are alone, 1 for right ones.
        values: By layer and product, in levels.
        levels: [layer][product][side], filled in.
        weight: λ, see ``WEIGHT``.
        learned: Counts what was used, if it is there.
    """
    mine = [place for place in how.places if place.side == side]
    if not mine:
        return
    first, last = mine[0].run, mine[-1].run
    parts: list[list[F32]] = [[] for _ in range(first, last + 1)]
    counts: list[list[F32]] = [[] for _ in parts]
    for place in mine:
        layer = how.layers[place.layer]
        product = layer.outline.products[place.product]
        parts[place.run - first].append(
            line(values[place.layer][place.product], product, side, place.channel)
        )
        weights = layer.targets[place.product].weights[side]
        counts[place.run - first].append(
            np.ones(place.size, np.float32) if weights is None else weights.each
        )
    runs = [np.concatenate(part) for part in parts]
    lanes = [_lanes(x) for x in runs]
    kinds = [np.full(len(x), i + first, dtype=np.int32) for i, x in enumerate(lanes)]
    found, odd = search(
        np.concatenate(lanes),
        np.concatenate(kinds),
        how.tables.cost([run.kind for run in how.runs]),
        np.array((0, *how.tables.shifts), dtype=np.float32) / np.float32(256),
        weight,
        np.concatenate([_lanes(np.concatenate(part)) for part in counts]),
    )
    ends = np.cumsum([0, *(len(x) for x in lanes)])
    rounded_runs = []
    for i, x in enumerate(runs):
        its = slice(ends[i], ends[i + 1])
        rounded_runs.append(found[its].reshape(-1)[: len(x)])
        if learned is not None:
            states = odd[its].reshape(-1)[: len(x)]
            learned.learn(how.runs[first + i], x, rounded_runs[-1], states)
    put(mine, rounded_runs, [layer.outline for layer in how.layers], levels, first=first)


def _lanes(x: F32) -> F32:
    padded = np.zeros(-(-len(x) // LANE) * LANE, dtype=np.float32)
    padded[: len(x)] = x
    return padded.reshape(-1, LANE)
