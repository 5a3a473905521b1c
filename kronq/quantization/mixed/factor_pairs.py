"""A pair of factors B1·B2 of a batch of layers: its gauges, what errors cost, and its codes.

Factors are kept channel by channel: left is B1ᵀ [layers, rank, rows], right is B2 [layers, rank,
cols]. An error E of B costs tr(L·E·S·Eᵀ) with L and S from ``metric``, or w·‖E‖².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.grid import fitted_scale
from kronq.quantization.mixed.allocation import U8, Option, judge
from kronq.quantization.mixed.gptq import (
    I64,
    Bounds,
    Lower,
    bounded,
    bounds,
    descend,
    feed,
    unbounded,
)

_SWEEPS = 8
_FED_SWEEPS = 4
"""With moments, where each costs more and less is left to gain."""
_RIDGE = 1e-7


@dataclass(frozen=True, eq=False)
class Pair:
    """A batch of layers in one gauge.

    Attributes:
        left: [layers, rank, rows].
        right: [layers, rank, cols].
    """

    left: F32
    right: F32


@dataclass(frozen=True, eq=False)
class Cost:
    """What an error costs on one side of B: the moments of a batch, or nothing but a factor.

    Attributes:
        moments: [layers, n, n], or None for the identity.
        worth: [layers]: what the error of one code is worth, after feedback.
        lower: The moments, factored.
    """

    moments: F64 | None
    worth: F64
    lower: Lower | None = None

    @classmethod
    def of(cls, moments: F64) -> Cost:
        lower = Lower(moments)
        return cls(moments, lower.diagonal.astype(np.float64).mean(axis=1), lower)

    @property
    def factor(self) -> F64:
        """[layers]: what stands for moments that are a multiple of the identity."""
        return self.worth if self.moments is None else np.ones_like(self.worth)

    def applied(self, x: F32) -> F64:
        """x·M [layers, channels, n]."""
        if self.moments is None:
            return x.astype(np.float64)
        found: F64 = np.matmul(x, self.moments)
        return found

    def diagonal(self, size: int) -> F64:
        """M's, [layers, n]."""
        if self.moments is None:
            return np.ones((len(self.worth), size))
        found: F64 = np.einsum("lii->li", self.moments)
        return found

    def between(self, x: F32, y: F32) -> F64:
        """x·M·yᵀ [layers, channels, channels]."""
        kept: NDArray[Any] = x if self.moments is None else self.applied(x)
        found: F64 = np.matmul(kept, y.transpose(0, 2, 1)).astype(np.float64)
        return found


def level(pair: Pair, left: Cost, right: Cost) -> Pair:
    """Components of one size on both sides, so that a badly scaled gauge costs no precision."""
    sizes = [
        np.einsum("lii->li", cost.between(side, side))
        for side, cost in ((pair.left, left), (pair.right, right))
    ]
    there = (sizes[0] > 0) & (sizes[1] > 0)
    by = np.divide(sizes[1], sizes[0], out=np.ones_like(sizes[0]), where=there)[..., None] ** 0.25
    return Pair((pair.left * by).astype(np.float32), (pair.right / by).astype(np.float32))


def principal(pair: Pair, left: Cost, right: Cost) -> Pair:
    """The same products in the gauge U√s, √s·Vᵀ of the metric: no component leans on another."""
    left_root, left_back = _root(left.between(pair.left, pair.left))
    right_root, right_back = _root(right.between(pair.right, pair.right))
    u, s, vt = np.linalg.svd(left_root @ right_root.transpose(0, 2, 1))
    half = np.sqrt(s)[:, :, None]
    to_left = half * (left_back @ u).transpose(0, 2, 1)
    to_right = half * (vt @ right_back.transpose(0, 2, 1))
    return Pair(
        (to_left @ pair.left).astype(np.float32), (to_right @ pair.right).astype(np.float32)
    )


def _root(gram: F64) -> tuple[F64, F64]:
    """R with Rᵀ·R = gram, and its pseudo-inverse."""
    values, vectors = np.linalg.eigh(gram)
    values = np.where(values > 1e-13 * values[:, -1:], values, 0.0)
    root = np.sqrt(values)
    back = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    return root[:, :, None] * vectors.transpose(0, 2, 1), vectors * back[:, None]


def options(pair: Pair, left: Cost, right: Cost) -> tuple[list[Pair], list[Option]]:
    """The gauges worth trying and their judged channels: as trained, and the principal one."""
    trained = level(pair, left, right)
    gauges = [trained, principal(trained, left, right)]
    found = []
    for each in gauges:
        energy_left = np.einsum("lii->li", left.between(each.left, each.left))
        energy_right = np.einsum("lii->li", right.between(each.right, each.right))
        energy_right = energy_right * right.factor[:, None]
        sides = (
            judge(each.left, energy_right * left.worth[:, None], scaled=True),
            judge(each.right, energy_left * right.worth[:, None], scaled=False),
        )
        found.append(Option(sides, energy_left * energy_right))
    return gauges, found


@dataclass
class Coding:
    """One factor on its way to codes."""

    target: F32
    cost: Cost
    limits: Bounds
    scale: F32
    codes: F32
    clipped: I64
    """[layers]: how many values, with what was fed back to them, lay beyond the outermost codes."""

    @property
    def values(self) -> F32:
        return self.codes * self.scale


@dataclass(frozen=True, eq=False)
class Rounding:
    """A batch in codes.

    Attributes:
        codes: Of each side, [layers, channels, length].
        scale: [layers, channels].
        clipped: Of each side, [layers]: how many values lay beyond the outermost codes.
    """

    codes: tuple[F32, ...]
    scale: F64
    clipped: tuple[I64, ...]


def start(target: F32, widths: U8, cost: Cost) -> Coding:
    """Every channel rounded by itself, at its scale of least squared error."""
    scale = np.zeros((*widths.shape, 1), dtype=np.float32)
    for bits in np.unique(widths[widths > 0]):
        at = widths == bits
        scale[at, 0] = fitted_scale(target[at], int(bits))
    limits = bounds(widths)
    return Coding(target, cost, limits, scale, *bounded(unbounded(target, scale), limits))


def rounded(pair: Pair, widths: tuple[U8, ...], left: Cost, right: Cost) -> Rounding:
    """Codes of both sides, and the scale of each component.

    Each side in turn is fitted to what the other became, with its scales.
    """
    one = start(pair.left, widths[0], left)
    two = start(pair.right, widths[1], right)
    best = _Best(one, two)
    fed = left.lower is not None or right.lower is not None
    for _ in range(_FED_SWEEPS if fed else _SWEEPS):
        _fit(one, two)
        _fit(two, one)
        _rescale(one, two)
        best.keep(one, two)
    scale = best.scales[0].astype(np.float64) * best.scales[1]
    return Rounding(best.codes, scale[..., 0], best.clipped)


def _fit(side: Coding, other: Coding) -> None:
    """New codes for one side, the other kept."""
    gram = other.cost.between(other.values, other.values)
    cross = other.cost.between(other.values, other.target) @ side.target
    if side.cost.lower is None:
        side.codes, side.clipped = descend(
            cross.astype(np.float32),
            gram.astype(np.float32),
            side.codes,
            side.scale,
            side.limits,
            1,
        )
        return
    target = np.linalg.solve(_steady(gram), cross).astype(np.float32)
    side.codes, side.clipped = feed(
        target, _steady(gram).astype(np.float32), side.cost.lower, side.scale, side.limits
    )


def _rescale(one: Coding, two: Coding) -> None:
    """The components' scales by least squares, all at once; they are kept on the left side."""
    gram = one.cost.between(one.values, one.values) * two.cost.between(two.values, two.values)
    cross = one.cost.between(one.values, one.target) * two.cost.between(two.values, two.target)
    factor = np.linalg.solve(_steady(gram), cross.sum(axis=2)[..., None])
    one.scale = one.scale * np.clip(factor, 0.5, 2).astype(np.float32)


def _steady(gram: F64) -> F64:
    size = gram.shape[1]
    mean = np.einsum("lii->l", gram)[:, None, None] / size
    steady: F64 = gram + np.eye(size) * (_RIDGE * mean + 1e-30)
    return steady


class _Best:
    """The codes of least error so far, layer by layer: feedback may overshoot."""

    def __init__(self, one: Coding, two: Coding) -> None:
        self.own = np.einsum(
            "lij,lij->l",
            one.cost.between(one.target, one.target),
            two.cost.between(two.target, two.target),
        )
        self.error = self._error(one, two)
        self.codes = (one.codes.copy(), two.codes.copy())
        self.scales = (one.scale.copy(), two.scale.copy())
        self.clipped = (one.clipped.copy(), two.clipped.copy())

    def keep(self, one: Coding, two: Coding) -> None:
        error = self._error(one, two)
        better = error < self.error
        self.error = np.where(better, error, self.error)
        for i, side in enumerate((one, two)):
            self.codes[i][better] = side.codes[better]
            self.scales[i][better] = side.scale[better]
            self.clipped[i][better] = side.clipped[better]

    def _error(self, one: Coding, two: Coding) -> F64:
        both = one.cost.between(one.values, one.values) * two.cost.between(two.values, two.values)
        cross = one.cost.between(one.values, one.target) * two.cost.between(two.values, two.target)
        error: F64 = self.own + (both - 2 * cross).sum(axis=(1, 2))
        return error
