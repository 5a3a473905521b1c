"""The path through the trellis of least squared error and bits together.

Every level is chosen with its code's cost in mind: distortion + λ · bits, least over whole lanes
(rate–distortion-optimized trellis quantization; Viterbi's algorithm over all lanes at once).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32
from kronq.trellis.states import NEXT, STATES, levels

I32 = NDArray[np.int32]

_CHUNK = 512
_THREADS = int(os.environ.get("OMP_NUM_THREADS") or 2)


def _predecessors() -> tuple[NDArray[Any], NDArray[Any]]:
    """Of every state, the two it can come from, and the branch (2 · odd + parity) of each."""
    into: list[list[tuple[int, int]]] = [[] for _ in range(STATES)]
    for state in range(STATES):
        for parity in (0, 1):
            into[NEXT[state, parity]].append((state, 2 * (state & 1) + parity))
    pairs = np.array(into)
    return pairs[..., 0], pairs[..., 1]


_FROM, _BRANCH = _predecessors()


def search(
    x: F32, kinds: I32, bits: F32, shifts: F32, weight: float, counts: F32
) -> tuple[I32, I32]:
    """Levels for ``x``, in lanes.

    Args:
        x: [lanes, LANE], in units of the step. Zeros where a lane is shorter.
        kinds: [lanes], the row of ``bits`` that a lane's codes cost.
        bits: [kinds, 2, magnitudes]: what a magnitude costs in an even state and in an odd one.
        shifts: [2 or more]: how far magnitude 1, 2, … is drawn towards zero when it is read.
        weight: λ: squared steps that a bit is worth.
        counts: [lanes, LANE]: what a squared error in each counts.
    """
    parts = [slice(i, i + _CHUNK) for i in range(0, len(x), _CHUNK)]
    cost = (bits * np.float32(weight)).astype(np.float32)
    with ThreadPoolExecutor(_THREADS) as pool:
        done = list(
            pool.map(lambda part: _search(x[part], kinds[part], cost, shifts, counts[part]), parts)
        )
    return np.concatenate([d[0] for d in done]), np.concatenate([d[1] for d in done])


def _search(x: F32, kinds: I32, cost: F32, shifts: F32, counts: F32) -> tuple[I32, I32]:
    errors, magnitudes = _branches(np.abs(x), kinds, cost, shifts, counts)
    branches = _path(errors)
    chosen = np.take_along_axis(magnitudes, branches[None], axis=0)[0]
    chosen = levels(chosen, branches >> 1)
    odd = branches >> 1
    return np.where(x.T < 0, -chosen, chosen).T, odd.T


def _branches(size: F32, kinds: I32, cost: F32, shifts: F32, counts: F32) -> tuple[F32, I32]:
    """The best code of every branch: its cost and its magnitude, [4, LANE, lanes]."""
    top = cost.shape[2] - 1
    last = len(shifts) - 1
    size = np.ascontiguousarray(size.T)
    counts = np.ascontiguousarray(counts.T)
    errors = np.empty((4, *size.shape), dtype=np.float32)
    best = np.empty((4, *size.shape), dtype=np.int32)
    row = kinds.astype(np.intp) * (2 * (top + 1))
    flat = cost.reshape(-1)
    for odd in (0, 1):
        for parity in (0, 1):
            # The levels of a branch are 4 apart: one below (or at) the value and one above.
            first = 2 * parity if not odd else (1 if parity else -1)
            below = np.maximum((size - first) * np.float32(0.25), 0).astype(np.int32)
            at = errors[2 * odd + parity]
            code = best[2 * odd + parity]
            for up in (0, 1):
                k = 2 * (below + up) + parity
                level = levels(k, np.array(odd, dtype=np.int32)).astype(np.float32)
                error = (size - level + shifts[np.minimum(k, last)]) ** 2
                error *= counts
                error += flat[row + (odd * (top + 1) + np.minimum(k, top))]
                if up == 0:
                    at[...], code[...] = error, k
                else:
                    better = error < at
                    np.copyto(at, error, where=better)
                    np.copyto(code, k, where=better)
    return errors, best


def _path(errors: F32) -> I32:
    """The branch taken at every position, [LANE, lanes]."""
    _, length, lanes = errors.shape
    metric = np.full((STATES, lanes), 1e30, dtype=np.float32)
    metric[0] = 0
    taken = np.empty((length, STATES, lanes), dtype=bool)
    for t in range(length):
        at = errors[:, t]
        one = metric[_FROM[:, 0]] + at[_BRANCH[:, 0]]
        two = metric[_FROM[:, 1]] + at[_BRANCH[:, 1]]
        np.less(two, one, out=taken[t])
        metric = np.minimum(one, two)
        metric -= metric.min(axis=0)
    state = metric.argmin(axis=0)
    every = np.arange(lanes)
    branches = np.empty((length, lanes), dtype=np.int32)
    for t in range(length - 1, -1, -1):
        which = taken[t, state, every].astype(np.int8)
        branches[t] = _BRANCH[state, which]
        state = _FROM[state, which]
    return branches
