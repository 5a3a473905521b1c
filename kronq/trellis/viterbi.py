"""Path through the trellis of least distortion and rate together, by Viterbi's algorithm.

Every level is chosen with its code's cost in mind: distortion + λ · bits, least over whole lanes
(rate–distortion-optimized trellis quantization), for all lanes at once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import OK, call, library
from kronq.io.threads import THREADS
from kronq.model.matrix import F32
from kronq.trellis.layer_shape import I32
from kronq.trellis.states import NEXT_STATE, STATES, levels_from_codes

_CHUNK = 1024
"""Lanes searched at once."""
_NO_PATH = 1e30


def _predecessors() -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns, of every state, the two it can come from, and the branch of each [STATES, 2].

    A branch is 2 · odd + parity: of the state it leaves and of its code.
    """
    into: list[list[tuple[int, int]]] = [[] for _ in range(STATES)]
    for state in range(STATES):
        for parity in (0, 1):
            into[NEXT_STATE[state, parity]].append((state, 2 * (state & 1) + parity))
    table = np.array(into)
    return table[..., 0], table[..., 1]


_PREVIOUS, _BRANCH = _predecessors()


@dataclass(frozen=True, eq=False)
class LaneCosts:
    """Costs of codes and errors in the lanes to be searched.

    Attributes:
        rows: [lanes], the row of ``bits`` for each lane's codes.
        bits: [rows, 2, magnitudes]: cost of a magnitude in an even state and in an odd one.
        shifts: [2 or more]: centroid shifts of magnitudes 0, 1, 2, …, in levels.
        weights: [lanes, LANE]: weight of each squared error.
        multiplier: λ: squared steps that a bit is worth.
    """

    rows: I32
    bits: F32
    shifts: F32
    weights: F32 | NDArray[np.uint8]
    multiplier: float


def search_levels(values: F32, costs: LaneCosts) -> tuple[I32, NDArray[np.int8]]:
    """Finds the levels of least cost.

    Args:
        values: [lanes, LANE], in levels; zeros where a lane is shorter.
        costs: Of codes and errors.

    Returns:
        The levels, and the parities of the states they are in [lanes, LANE].
    """
    price = np.ascontiguousarray(costs.bits * np.float32(costs.multiplier), dtype=np.float32)
    shifts = np.ascontiguousarray(costs.shifts, dtype=np.float32)
    rows = np.ascontiguousarray(costs.rows, dtype=np.int32)
    functions = library() if np.isfinite(price).all() else None
    table = _price_table(price, shifts)
    levels = np.empty(values.shape, dtype=np.int32)
    odd = np.empty(values.shape, dtype=np.int8)

    def search(start: int) -> None:
        lanes = slice(start, start + _CHUNK)
        if functions:
            weights = np.ascontiguousarray(costs.weights[lanes], dtype=np.float32)
            own = len(weights), np.ascontiguousarray(values[lanes]), weights, rows[lanes]
            given = *own, table, table.shape[2], levels[lanes], odd[lanes]
            if call(functions, "kronq_search_levels", *given) == OK:
                return
        sizes = np.abs(values[lanes].T, order="C")
        weights = np.ascontiguousarray(costs.weights[lanes].T, dtype=np.float32)
        errors, codes = _branch_costs(sizes, weights, rows[lanes], price, shifts)
        branches = _cheapest_path(errors)
        parities = branches >> 1
        chosen = np.take_along_axis(codes, branches[None], axis=0)[0]
        found = levels_from_codes(chosen, parities)
        levels[lanes] = np.where(values[lanes].T < 0, -found, found).T
        odd[lanes] = parities.T

    starts = range(0, len(values), _CHUNK)
    if THREADS == 1 or len(starts) == 1:
        for start in starts:
            search(start)
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(search, starts):
                pass
    return levels, odd


def _price_table(price: F32, shifts: F32) -> F32:
    """Returns each code's price and its shift, side by side: [rows, 2, magnitudes, 2]."""
    codes = np.arange(max(price.shape[2], len(shifts)))
    table = np.empty((*price.shape[:2], len(codes), 2), dtype=np.float32)
    table[..., 0] = price.take(codes, axis=2, mode="clip")
    table[..., 1] = shifts.take(codes, mode="clip")
    return table


def _branch_costs(sizes: F32, weights: F32, rows: I32, price: F32, shifts: F32) -> tuple[F32, I32]:
    """Returns the best code of every branch: its cost and its magnitude, [4, LANE, lanes].

    Args:
        sizes: Magnitudes of the values [LANE, lanes].
        weights: Of squared errors [LANE, lanes].
        rows: [lanes], the row of ``price`` for each lane.
        price: [rows, 2, magnitudes], in squared steps.
        shifts: As in ``LaneCosts``.
    """
    magnitudes = price.shape[2]
    row = rows.astype(np.int32) * np.int32(2 * magnitudes)
    flat = price.reshape(-1)
    weighted = not (weights == 1).all()
    errors = np.empty((4, *sizes.shape), dtype=np.float32)
    codes = np.empty((4, *sizes.shape), dtype=np.int32)
    for branch in range(4):
        odd, parity = branch >> 1, branch & 1
        # The levels of a branch are 4 apart: one below (or at) the value and one above.
        first = 2 * parity if not odd else (1 if parity else -1)
        below = np.maximum((sizes - first) * np.float32(0.25), 0).astype(np.int32)
        for above in (0, 1):
            k = 2 * (below + above) + parity
            error = (2 * k).astype(np.float32)
            if odd:
                error -= np.minimum(k, 1)
            np.subtract(sizes, error, out=error)
            error += shifts.take(k, mode="clip")
            error *= error
            if weighted:
                error *= weights
            place = np.minimum(k, magnitudes - 1)
            place += row + np.int32(odd * magnitudes)
            error += flat.take(place)
            if not above:
                errors[branch], codes[branch] = error, k
            else:
                better = error < errors[branch]
                np.copyto(errors[branch], error, where=better)
                np.copyto(codes[branch], k, where=better)
    return errors, codes


def _cheapest_path(errors: F32) -> I32:
    """Returns the branch taken at every position, [LANE, lanes]."""
    _, length, lanes = errors.shape
    metric = np.full((STATES, lanes), _NO_PATH, dtype=np.float32)
    metric[0] = 0
    second_is_better = np.empty((length, STATES, lanes), dtype=bool)
    for t in range(length):
        first = metric[_PREVIOUS[:, 0]] + errors[_BRANCH[:, 0], t]
        second = metric[_PREVIOUS[:, 1]] + errors[_BRANCH[:, 1], t]
        np.less(second, first, out=second_is_better[t])
        metric = np.minimum(first, second)
        metric -= metric.min(axis=0)
    state = metric.argmin(axis=0)
    every_lane = np.arange(lanes)
    branches = np.empty((length, lanes), dtype=np.int32)
    for t in range(length - 1, -1, -1):
        taken = second_is_better[t, state, every_lane].astype(np.int8)
        branches[t] = _BRANCH[state, taken]
        state = _PREVIOUS[state, taken]
    return branches
