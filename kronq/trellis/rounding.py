"""Targets to levels at one step: the trellis over all layers, left factors first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32
from kronq.trellis.compiled_encoder import LARGEST_CONTEXT_CLASS, out_of_range
from kronq.trellis.layer_shape import I32, AdapterLevels, zero_levels
from kronq.trellis.norm_classes import EMPTY_CHANNEL
from kronq.trellis.rate_tables import RateTables
from kronq.trellis.reconstruction import Shifts, shift_levels
from kronq.trellis.stream_layout import (
    LANE,
    ChannelPart,
    StreamLayout,
    lay_out_stream,
    split_lanes,
)
from kronq.trellis.target_levels import left_levels, norm_classes_at, right_levels
from kronq.trellis.targets import LayerTarget
from kronq.trellis.viterbi import LaneCosts, search_levels

T = TypeVar("T", bound=np.generic)

_PRUNINGS = 2
_FEW = 0.01
"""Share of the channels that is not worth another pass if it came out all zero."""
MULTIPLIER = 0.42
"""λ: squared steps that a bit is worth."""


@dataclass(frozen=True, eq=False)
class RoundingPlan:
    """Layout and tables by which all layers are coded at one step.

    Attributes:
        targets: The layers to be coded.
        step: Of the levels.
        norm_classes: Of every channel, by layer and product.
        layout: Of the stream.
        tables: Rates of codes.
    """

    targets: Sequence[LayerTarget]
    step: float
    norm_classes: list[list[I32]]
    layout: StreamLayout
    tables: RateTables

    def zeros(self) -> AdapterLevels:
        """Returns zeros in the shape of all matrices: [layer][product][side]."""
        return zero_levels(self.layout.shapes)

    def left(self) -> list[list[F32]]:
        """Returns every left matrix in levels, by layer and product."""
        return [
            left_levels(target, classes, self.step)
            for target, classes in zip(self.targets, self.norm_classes, strict=True)
        ]

    def right(self, levels: AdapterLevels) -> list[list[F32]]:
        """Returns every right matrix in levels, fitted to the rounded left ones in ``levels``."""
        shifts = self.tables.shifts
        return [
            right_levels(target, classes, [shift_levels(p[0], shifts) for p in each], self.step)
            for target, classes, each in zip(self.targets, self.norm_classes, levels, strict=True)
        ]


def plan_rounding(
    targets: Sequence[LayerTarget],
    step: float,
    tables: RateTables,
    norm_classes: list[list[I32]] | None = None,
) -> RoundingPlan:
    """Lays out the stream of ``targets`` at ``step``.

    Args:
        targets: The layers to be coded.
        step: Of the levels.
        tables: Rates of codes.
        norm_classes: Others than the channels have at this step.

    Raises:
        FormatError: A layer would have levels that are too large to be coded.
    """
    if norm_classes is None:
        norm_classes = [norm_classes_at(target, step) for target in targets]
    shapes = [target.shape for target in targets]
    layout = lay_out_stream(shapes, norm_classes, [target.offsets for target in targets])
    if any(run.context_class > LARGEST_CONTEXT_CLASS for run in layout.runs):
        raise out_of_range()
    return RoundingPlan(targets, step, norm_classes, layout, tables)


@dataclass(frozen=True, eq=False)
class RoundedLevels:
    """An adapter's levels at one step.

    Attributes:
        step: Of the levels.
        shifts: Centroid shifts.
        norm_classes: Of every channel, by layer and product.
        levels: [layer][product][side].
    """

    step: float
    shifts: Shifts
    norm_classes: list[list[I32]]
    levels: AdapterLevels


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
    result = []
    for classes, levels in zip(rounded.norm_classes, rounded.levels, strict=True):
        left, right = levels[-1][0], levels[-1][-1]
        alive = left.any(axis=0) & right.any(axis=1) if len(levels[-1]) == 2 else left.any()
        last = np.where(alive, classes[-1], EMPTY_CHANNEL).astype(np.int32)
        if (last == EMPTY_CHANNEL).all():
            result.append([np.full_like(each, EMPTY_CHANNEL) for each in classes])
        else:
            result.append([*classes[:-1], last])
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
    values: Sequence[Sequence[F32]],
    levels: AdapterLevels,
    multiplier: float = MULTIPLIER,
    learned: RateTables | None = None,
) -> None:
    """Rounds one side of every product, into ``levels``.

    Args:
        plan: Layout and tables.
        side: 0 for left matrices, and those that are alone, 1 for right ones.
        values: By layer and product, in levels.
        levels: [layer][product][side], filled in.
        multiplier: λ: squared steps that a bit is worth.
        learned: Counts the levels, if given.
    """
    layout = plan.layout.of_side(side)
    if not layout.runs:
        return

    # Of a large adapter each of these arrays is large: none is kept twice.
    lanes = _in_lanes(
        layout.gather(lambda part: layout.view(values[part.layer][part.product], part))
    )
    lane_counts = [-(-run.size // LANE) for run in layout.runs]
    costs = LaneCosts(
        np.repeat(np.arange(len(layout.runs), dtype=np.int32), lane_counts),
        plan.tables.bits([run.context_class for run in layout.runs]),
        np.array((0, *plan.tables.shifts), dtype=np.float32) / np.float32(256),
        _weights_in_lanes(plan, layout, side),
        multiplier,
    )
    ends = np.cumsum(lane_counts)[:-1]

    def by_run(x: NDArray[T]) -> list[NDArray[T]]:
        parts = zip(np.split(x, ends), layout.runs, strict=True)
        return [part.reshape(-1)[: run.size] for part, run in parts]

    levels_in_lanes, odd_in_lanes = search_levels(lanes, costs)
    found, odd = by_run(levels_in_lanes), by_run(odd_in_lanes)
    if learned is not None:
        for run, x, level, state in zip(layout.runs, by_run(lanes), found, odd, strict=True):
            learned.count(run.context_class, x, level, state)
    layout.scatter(found, levels)


def _in_lanes(runs: list[NDArray[T]]) -> NDArray[T]:
    return np.concatenate([split_lanes(run) for run in runs])


def _weights_in_lanes(
    plan: RoundingPlan, layout: StreamLayout, side: int
) -> F32 | NDArray[np.uint8]:
    """Returns the weights of errors, 0 where a lane is filled up; bytes where all are 1."""

    def weights(part: ChannelPart) -> F32:
        found = plan.targets[part.layer].products[part.product].weights[side]
        return np.ones(part.length, np.float32) if found is None else found.diagonal

    if all(p.weights[side] is None for target in plan.targets for p in target.products):
        return _in_lanes([np.ones(run.size, np.uint8) for run in layout.runs])
    return _in_lanes(layout.gather(weights))
