"""What compact codes are to become: every layer in the gauge and the units in which errors count.

In the SVD gauge B = Σ s_k·u_k·v_kᵀ an error in u_k or v_k moves ΔW by |scale|·‖A‖·s_k times itself.
With calibration errors are weighed, tr(left·E·right·Eᵀ), and so is the SVD: of left½·B·right½ =
Σ s_k·u_k·v_kᵀ, by which B = Σ s_k·(left⁻½·u_k)·(right⁻½·v_k)ᵀ. Errors in both factors then count
s_k times their own weighted size, and one step for all is again reverse water-filling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kronq.errors import FormatError
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.error_weights import error_weight, find_moments, reduce_moments
from kronq.model.matrix import ABSENT, F32, Stretch
from kronq.model.second_moments import LayerMoments
from kronq.model.small_svd import decompose_product
from kronq.trellis.norm_classes import least_size
from kronq.trellis.reconstruction import norm_size
from kronq.trellis.stream import outline
from kronq.trellis.stream_layout import FLAT, Outline
from kronq.trellis.viterbi import I32

_DAMPING = 1e-3
"""Of the mean of a moment, added to its diagonal: calibration saw only so much text."""


@dataclass(frozen=True, eq=False)
class Weights:
    """What an error in one factor counts, relative to its mean: Σ_k δ_kᵀ·matrix·δ_k.

    Attributes:
        matrix: [n, n], of mean diagonal 1.
    """

    matrix: F64

    @property
    def each(self) -> F32:
        """What an error in one entry counts [n]."""
        return np.diag(self.matrix).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Target:
    """A product to be coded, as it is before rounding.

    Attributes:
        norms: Of every channel, in units of what counts: [r], or [1] for a whole matrix.
        left: Columns [rows, r] of size 1 or so, or the whole matrix with norm 1.
        right: Columns [cols, r] of size 1 or so, or None.
        weights: What errors in left and right count; None where all count the same.
    """

    norms: F64
    left: F64
    right: F64 | None
    weights: tuple[Weights | None, Weights | None] = (None, None)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's outline, the targets of its products, A first if it has one, and its own step."""

    outline: Outline
    targets: tuple[Target, ...]
    stretch: Stretch = FLAT


def prepare(adapter: Adapter, moments: Mapping[str, LayerMoments] | None = None) -> list[Layer]:
    """Every layer in its gauge.

    Args:
        adapter: As it was trained.
        moments: What calibration saw of every layer; None counts ‖ΔW − ΔŴ‖.

    Raises:
        FormatError: A layer has values that are not finite.
        KronqError: Calibration did not see a layer.
    """
    return [
        _prepare(name, delta, None if moments is None else find_moments(moments, name))
        for name, delta in adapter.items()
    ]


def _prepare(name: str, delta: Delta, moment: LayerMoments | None) -> Layer:
    if not all(np.isfinite(m.float32()).all() for m in delta.matrices):
        raise FormatError("the layer has values that are not finite", layer=name)
    stretch = FLAT
    if moment is None or not error_weight(delta):
        b = _target(delta.b)
        b = replace(b, norms=b.norms * np.sqrt(error_weight(delta)))
    elif delta.b.right is None:
        b, stretch = _evened(delta, moment)
    else:
        b, stretch = _weighted(delta, moment)
    if delta.a is ONE:
        return Layer(outline(delta), (b,), stretch)
    a = _target(delta.a)
    size = float(np.linalg.norm(a.norms))
    a = replace(a, norms=a.norms * float(np.linalg.norm(b.norms)) / (size or 1.0))
    return Layer(outline(delta), (a, b), stretch)


def _target(product: Product) -> Target:
    left, right = (None if x is None else x.astype(np.float64) for x in product.float32())
    assert left is not None  # noqa: S101
    if right is None:
        norm = float(np.linalg.norm(left))
        return Target(np.array([norm]), left / norm if norm else left, None)
    return Target(*_components(left, right))


def _components(left: F64, right: F64) -> tuple[F64, F64, F64]:
    """The SVD of left·right: norms [r], u [rows, r], v [cols, r]; zeros where there are fewer."""
    svd = decompose_product(left, right)
    rank, inner = left.shape[1], len(svd.s)
    norms = np.zeros(rank)
    norms[:inner] = svd.s
    u_full, v_full = np.zeros((len(left), rank)), np.zeros((right.shape[1], rank))
    u_full[:, :inner] = svd.left_vectors()
    v_full[:, :inner] = svd.q_right @ svd.vt.T
    return norms, u_full, v_full


def _evened(delta: Delta, moment: LayerMoments) -> tuple[Target, Stretch]:
    """A whole B, where every error counts what one counts on the mean, and the step of its levels.

    Its entries are coded alike, but beside other layers its errors have to count as theirs do.
    """
    b = _target(delta.b)
    means = [
        1.0 if x is None else float(np.trace(x)) / len(x) for x in reduce_moments(delta, moment)
    ]
    mean = means[0] * means[1] or 1.0
    step, rest = _own_step(delta, mean)
    return replace(b, norms=b.norms * (np.sqrt(mean) * rest)), (step, 0, 0)


def _own_step(delta: Delta, mean: float) -> tuple[int, float]:
    """The layer's step where an error in B counts ``mean``, and what rounding it left over."""
    exact = 4 * np.log2(np.sqrt(error_weight(delta)) / np.sqrt(mean))
    step = int(np.rint(exact))
    return step, float(2.0 ** ((exact - step) / 4))


def _weighted(delta: Delta, moment: LayerMoments) -> tuple[Target, Stretch]:
    """B's target where errors count tr(left·E·right·Eᵀ), and the step of its levels."""
    left, right = reduce_moments(delta, moment)
    sides = [None if x is None else _root(x) for x in (left, right)]
    b1, b2 = (x.astype(np.float64) for x in delta.b.float32() if x is not None)
    weighted_left = b1 if sides[0] is None else sides[0].root @ b1
    weighted_right = b2 if sides[1] is None else b2 @ sides[1].root
    norms, u, v = _components(weighted_left, weighted_right)
    # Levels of one size: what an entry's error counts on the mean goes into the layer's step.
    means = [1.0 if side is None else side.mean for side in sides]
    u = (u if sides[0] is None else sides[0].inverse @ u) * np.sqrt(means[0])
    v = (v if sides[1] is None else sides[1].inverse @ v) * np.sqrt(means[1])
    step, rest = _own_step(delta, means[0] * means[1])
    u, v = u * np.sqrt(rest), v * np.sqrt(rest)
    there = norms > norms.max() * 1e-6
    larger = [_quarters(x[:, there]) for x in (u, v)]
    weights = [None if side is None else Weights(side.moment / side.mean) for side in sides]
    return Target(norms, u, v, (weights[0], weights[1])), (step, larger[0], larger[1])


def _quarters(columns: F64) -> int:
    """4·log2 of what size columns have; 0 where there are none."""
    size = float(np.linalg.norm(columns)) / np.sqrt(max(1, columns.shape[1]))
    return int(np.rint(4 * np.log2(size))) if size > 0 else 0


@dataclass(frozen=True, eq=False)
class _Root:
    """A moment, damped, its symmetric root and the inverse of that, and its mean diagonal."""

    moment: F64
    root: F64
    inverse: F64
    mean: float


def _root(moment: F64) -> _Root:
    mean = float(np.trace(moment)) / len(moment) or 1.0
    damped = moment + np.eye(len(moment)) * (_DAMPING * mean)
    values, vectors = np.linalg.eigh(damped)
    values = np.sqrt(np.maximum(values, _DAMPING * mean * 0.5))
    return _Root(damped, (vectors * values) @ vectors.T, (vectors / values) @ vectors.T, mean)


def sizes_of(layer: Layer, step: float) -> list[I32]:
    """What the decoder is told of every channel's norm at a step; ``ABSENT`` below notice."""
    found = []
    for target, product in zip(layer.targets, layer.outline.products, strict=True):
        sizes = np.full(len(target.norms), ABSENT, dtype=np.int32)
        there = target.norms > 0
        sizes[there] = np.rint(4 * np.log2(target.norms[there] / step))
        sizes[sizes < least_size(product)] = ABSENT
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


def left_levels(layer: Layer, sizes: Sequence[I32], step: float) -> list[F32]:
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


_SAME = 1e-9


def right_levels(layer: Layer, sizes: Sequence[I32], left: Sequence[F32], step: float) -> list[F32]:
    """Every product's right matrix [r, cols] in levels, by least squares on the coded left one.

    Args:
        layer: The layer.
        sizes: Of its channels.
        left: Every product's left matrix as it is read.
        step: Of the levels.
    """
    found = []
    for p, (target, each) in enumerate(zip(layer.targets, sizes, strict=True)):
        if target.right is None:
            found.append(np.zeros((0, 0), dtype=np.float32))
            continue
        x = left[p].astype(np.float64)
        # B in levels: left · diag(2^(-size/4)) · right, to be fitted to u·diag(amplitude)·vᵀ.
        weights = target.weights[0]
        weighed = x if weights is None else weights.matrix @ x
        gram = weighed.T @ x
        amplitude = _amplitudes(layer, sizes, step, p)
        cross = (weighed.T @ target.left) * amplitude
        trace = float(np.trace(gram))
        solved = np.linalg.solve(gram + np.eye(len(gram)) * (_SAME * trace + 1e-300), cross)
        solved *= np.where(each != ABSENT, 2.0 ** (each / 4), 0)[:, None]
        found.append((solved @ target.right.T).astype(np.float32))
    return found
