"""Targets to levels at one step: the trellis over all layers, left factors first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.io.overflow import Held, Overflow
from kronq.model.matrix import F32
from kronq.trellis.lane_windows import LaneWindow, Values, lane_windows
from kronq.trellis.layer_shape import I32
from kronq.trellis.norm_classes import EMPTY_CHANNEL
from kronq.trellis.product_target import LayerTarget
from kronq.trellis.rate_tables import RateTables
from kronq.trellis.reconstruction import Shifts
from kronq.trellis.rounding_plan import RoundingPlan, plan_rounding
from kronq.trellis.run_levels import RunLevels
from kronq.trellis.stream_layout import StreamLayout
from kronq.trellis.viterbi import LaneCosts, search_levels

_PRUNINGS = 2
_FEW = 0.01
"""Share of the channels that is not worth another pass if it came out all zero."""
MULTIPLIER = 0.42
"""λ: squared steps that a bit is worth."""


@dataclass(frozen=True, eq=False)
class RoundedLevels:
    """An adapter's levels at one step.

    Attributes:
        step: Of the levels.
        shifts: Centroid shifts.
        norm_classes: Of every channel, by layer and product.
        levels: Of every matrix.
    """

    step: float
    shifts: Shifts
    norm_classes: list[list[I32]]
    levels: RunLevels


def round_and_learn(
    targets: Sequence[LayerTarget], step: float, tables: RateTables
) -> tuple[RoundedLevels, RateTables]:
    """Rounds all layers, and learns the tables that suit the levels they became."""
    learned = RateTables()
    rounded = _round_layers(plan_rounding(targets, step, tables), learned)
    learned.update_shifts()
    return rounded, learned


def round_targets(targets: Sequence[LayerTarget], step: float, tables: RateTables) -> RoundedLevels:
    """Rounds all layers, then rounds again without the channels that became all zero.

    Raises:
        FormatError: A layer would have levels that are too large to be coded.
    """
    rounded = _round_layers(plan_rounding(targets, step, tables))
    for _ in range(_PRUNINGS):
        classes = _without_zero_channels(rounded)
        if _channels_coded(classes) > (1 - _FEW) * _channels_coded(rounded.norm_classes):
            break
        rounded = _round_layers(plan_rounding(targets, step, tables, classes))
    return rounded


def _channels_coded(norm_classes: Sequence[Sequence[I32]]) -> int:
    return sum(int((each != EMPTY_CHANNEL).sum()) for layer in norm_classes for each in layer)


def _without_zero_channels(rounded: RoundedLevels) -> list[list[I32]]:
    """Returns the norm classes, empty where one side of a channel of B is all zero.

    A's own stay as they are, because B's scale depends on them, unless all of B is zero.
    """
    layer, product, channel = rounded.levels.layout.columns[[1, 2, 4]]
    alive = rounded.levels.alive()
    dead: dict[int, list[int]] = {}
    last = np.array([len(shape.products) - 1 for shape in rounded.levels.layout.shapes])
    for i in np.flatnonzero(~alive & (product == last[layer])).tolist():
        dead.setdefault(int(layer[i]), []).append(int(channel[i]))
    result = []
    for i, classes in enumerate(rounded.norm_classes):
        if i not in dead:
            result.append(classes)
            continue
        of_b = classes[-1].copy()
        of_b[dead[i]] = EMPTY_CHANNEL
        if (of_b == EMPTY_CHANNEL).all():
            result.append([np.full_like(each, EMPTY_CHANNEL) for each in classes])
        else:
            result.append([*classes[:-1], of_b])
    return result


def _round_layers(plan: RoundingPlan, learned: RateTables | None = None) -> RoundedLevels:
    """Rounds left factors, and then right ones fitted to what they became."""
    levels = plan.zeros()
    round_side(plan, 0, plan.left(), levels, learned=learned)
    round_side(plan, 1, plan.right(levels), levels, learned=learned)
    return RoundedLevels(plan.step, plan.tables.shifts, plan.norm_classes, levels)


def round_side(
    plan: RoundingPlan,
    side: int,
    values: Values,
    levels: RunLevels,
    multiplier: float = MULTIPLIER,
    learned: RateTables | None = None,
) -> None:
    """Rounds one side of every product, into ``levels``.

    Args:
        plan: Layout and tables.
        side: 0 for left matrices, and those that are alone, 1 for right ones.
        values: By layer and product, in levels.
        levels: Of all matrices, filled in.
        multiplier: λ: squared steps that a bit is worth.
        learned: Counts the levels, if given.
    """
    layout = plan.layout.of_side(side)
    before = len(plan.layout.runs) - len(layout.runs) if side else 0
    bits = plan.tables.bits([run.context_class for run in layout.runs])
    shifts = np.array((0, *plan.tables.shifts), dtype=np.float32) / np.float32(256)
    weighted = any(p.weights[side] is not None for target in plan.targets for p in target.products)
    windows = lane_windows(layout)
    if len(windows) > 1:
        values = _held(values, layout)
    for window in windows:
        lanes = window.fill(values, side)
        weights = _weights(plan, window, side) if weighted else window.presence()
        costs = LaneCosts(window.rows, bits, shifts, weights, multiplier)
        found, odd = search_levels(lanes, costs)
        for run, start, size, place in window.spans:
            own = slice(place, place + size)
            level = found.reshape(-1)[own]
            levels.put(before + run, start, level)
            if learned is not None:
                x, state = lanes.reshape(-1)[own], odd.reshape(-1)[own]
                learned.count(layout.runs[run].context_class, x, level, state)


def _held(values: Values, layout: StreamLayout) -> Values:
    """Returns values that are made once, though windows ask for them again and again.

    A matrix without a partner lies in one run, and is asked for once or twice.
    """
    overflow = Overflow()
    held: dict[tuple[int, int], NDArray[np.float32] | Held] = {}

    def again(layer: int, product: int) -> F32:
        if len(layout.shapes[layer].products[product]) == 1:
            return values(layer, product)
        if (layer, product) not in held:
            held[layer, product] = overflow.hold(values(layer, product))
        return np.asarray(held[layer, product])

    return again


def _weights(plan: RoundingPlan, window: LaneWindow, side: int) -> F32:
    """Returns the weights of errors in a window, 0 where a lane is filled up."""

    def weights(layer: int, product: int) -> F32:
        found = plan.targets[layer].products[product].weights[side]
        shape = plan.layout.shapes[layer].products[product][side]
        if found is None:
            return np.ones(shape, np.float32)
        return np.broadcast_to(found.diagonal[:, None] if side == 0 else found.diagonal, shape)

    return window.fill(weights, side)
