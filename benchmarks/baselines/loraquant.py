"""LoRAQuant (arXiv 2510.26690), re-implemented because no package of it exists.

Follows the paper and the code of its authors (Anonymous890920/LoRAQuant, ``loraquant`` and
``RTN``). B is turned into its singular components, U√S and √S·V. The ``h`` leading ones, the fewest
with a share ρ of Σs², get 2 or 3 bits in groups of 128 along each component, with a scale and an
integer zero point; before that each pair is fitted by 300 steps of gradient descent on the error of
its product. The others keep signs, and the mean magnitude of each group.

Differences: a component's last group may be short (the released code needs lengths that 128
divides); ``h`` reaches ρ (the released code stops one component short of it); scales are float16,
stored and counted, which the paper's bit count leaves out. The file has
one tensor a layer, because no format of it exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.baseline import Baseline, BaselineFile, a_to_float16, make_file
from benchmarks.baselines.float16 import decompose
from kronq.model.adapter import Adapter
from kronq.model.bit_packing import pack_codes
from kronq.model.delta import Delta, Product
from kronq.model.matrix import F32, Float

GROUP = 128
STEPS = 300
RATE = 1e-2
_TINY = 1e-20
WIDTHS = ((2, 0.5), (2, 0.8), (2, 0.9), (3, 0.8), (3, 0.9))
"""Bits and ρ, as the paper names its variants (2@0.8); ρ = 0.5 is ours, for a smaller file."""


@dataclass(frozen=True, eq=False)
class GroupCodes:
    """Codes of rank components, each row cut into groups.

    Attributes:
        codes: Unsigned codes [k, n]; signs are 0 and 1.
        scale: Scales, float16 [k, groups].
        zero: Unsigned zero points [k, groups], as wide as a code; None for signs.
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.float16]
    zero: NDArray[np.uint8] | None

    def float32(self) -> F32:
        scale = _spread(self.scale.astype(np.float32), self.codes.shape[1])
        codes = self.codes.astype(np.float32)
        if self.zero is None:
            return np.asarray((2 * codes - 1) * scale, np.float32)
        zero = _spread(self.zero.astype(np.float32), self.codes.shape[1])
        return np.asarray((codes - zero) * scale, np.float32)

    def to_bytes(self, bits: int) -> list[NDArray[np.uint8]]:
        zero = [] if self.zero is None else [pack_codes(self.zero, bits)]
        return [pack_codes(self.codes, bits), *zero, self.scale.reshape(-1).view(np.uint8)]


def loraquant(adapter: Adapter, bits: int, share: float) -> BaselineFile:
    """Quantizes to ``bits`` bits the components with ``share`` of the energy, to one the others."""
    split = {name: _components(delta) for name, delta in adapter.items()}
    count = {name: count_leading(s, share) for name, (_, s, _) in split.items()}
    fitted = _fit_by_shape({n: _factor_rows(split[n], slice(count[n])) for n in split}, bits)
    layers: dict[str, Delta] = {}
    tensors: dict[str, NDArray[Any]] = {}
    for name, delta in adapter.items():
        high = [code_to_nearest(x, bits) for x in fitted[name]]
        low = [code_signs(x) for x in _factor_rows(split[name], slice(count[name], None))]
        left, right = (
            np.concatenate((h.float32(), one.float32())) for h, one in zip(high, low, strict=True)
        )
        parts = [np.array([count[name]], np.uint16).view(np.uint8)]
        parts += [part for x in high for part in x.to_bytes(bits)]
        parts += [part for x in low for part in x.to_bytes(1)]
        a, a_tensors = a_to_float16(delta)
        parts += [x.reshape(-1).view(np.uint8) for x in a_tensors.values()]
        tensors[name] = np.concatenate(parts)
        layers[name] = replace(delta, a=a, b=Product(Float(left.T.copy()), Float(right)))
    return make_file(adapter, layers, tensors)


def count_leading(s: NDArray[np.float64], share: float) -> int:
    """Returns the fewest leading components with ``share`` of Σs²; 1 at least."""
    held = np.cumsum(s**2)
    return 1 + int(np.count_nonzero(held[:-1] < share * held[-1]))


def code_to_nearest(x: F32, bits: int) -> GroupCodes:
    """Rounds groups asymmetrically: minimum to maximum in 2^bits − 1 steps, integer zero point."""
    codes, scale, zero = _round_groups(x, bits)
    return GroupCodes(codes.astype(np.uint8), scale.astype(np.float16), zero.astype(np.uint8))


def code_signs(x: F32) -> GroupCodes:
    """Returns signs, with the mean magnitude of each group as scale."""
    starts = _starts(x.shape[1])
    scale = np.add.reduceat(np.abs(x), starts, axis=1) / np.diff(starts, append=x.shape[1])
    return GroupCodes((x >= 0).astype(np.uint8), scale.astype(np.float16), None)


def fit(left: F32, right: F32, bits: int) -> tuple[F32, F32]:
    """Minimizes ‖l·rᵀ − q(l')·q(r')ᵀ‖ of each component [k, m], [k, n] by gradient descent.

    The codes of the rounding q have no gradient. Only the largest and the smallest weight of a
    group move, which set its scale; this fits the clipping.
    """
    own = _dot(left, left) * _dot(right, right)
    x, y = left, right
    for _ in range(STEPS):
        (q, to_x), (p, to_y) = _round_with_gradient(x, bits), _round_with_gradient(y, bits)
        lq, rp, qq, pp = _dot(left, q), _dot(right, p), _dot(q, q), _dot(p, p)
        loss = np.sqrt(np.maximum(own - 2 * lq * rp + qq * pp, _TINY))
        x = x - RATE * to_x((q * pp - left * rp) / loss)
        y = y - RATE * to_y((p * qq - right * lq) / loss)
    return x, y


def _round_with_gradient(x: F32, bits: int) -> tuple[F32, Callable[[F32], F32]]:
    """Returns q(x), and the function from a gradient of q(x) to one of x."""
    codes, scale, zero = _round_groups(x, bits)
    n, starts = x.shape[1], _starts(x.shape[1])
    steps = codes - _spread(zero, n)

    def backward(gradient: F32) -> F32:
        of_scale = np.add.reduceat(gradient * steps, starts, axis=1) / np.float32(2**bits - 1)
        total = np.zeros_like(x)
        for extreme, sign in ((np.maximum, 1), (np.minimum, -1)):
            at = x == _spread(extreme.reduceat(x, starts, axis=1), n)
            ties = np.add.reduceat(at, starts, axis=1, dtype=np.float32)
            total += sign * at * _spread(of_scale / ties, n)
        return total

    return steps * _spread(scale, n), backward


def _round_groups(x: F32, bits: int) -> tuple[F32, F32, F32]:
    starts, n = _starts(x.shape[1]), x.shape[1]
    low = np.minimum.reduceat(x, starts, axis=1)
    high = np.maximum.reduceat(x, starts, axis=1)
    top = np.float32(2**bits - 1)
    scale = np.maximum(high - low, np.float32(1e-5)) / top
    zero = np.clip(-np.rint(low / scale), 0, top)
    codes = np.clip(np.rint(x / _spread(scale, n)) + _spread(zero, n), 0, top)
    return codes, scale, zero


def _fit_by_shape(factors: dict[str, tuple[F32, F32]], bits: int) -> dict[str, tuple[F32, F32]]:
    """Fits all layers of one shape at once, because small arrays are mostly overhead."""
    shapes: dict[tuple[int, int], list[str]] = {}
    for name, (left, right) in factors.items():
        shapes.setdefault((left.shape[1], right.shape[1]), []).append(name)
    fitted: dict[str, tuple[F32, F32]] = {}
    for names in shapes.values():
        ends = np.cumsum([len(factors[name][0]) for name in names])[:-1]
        stacked = [np.concatenate([factors[name][i] for name in names]) for i in (0, 1)]
        both = fit(stacked[0], stacked[1], bits)
        parts = zip(*(np.split(x, ends) for x in both), strict=True)
        fitted |= dict(zip(names, parts, strict=True))
    return fitted


def _components(delta: Delta) -> tuple[F32, NDArray[np.float64], F32]:
    """Returns √S·Uᵀ [r, b_out], s [r] and √S·V [r, b_in]."""
    u, s, v = decompose(delta.b)
    root = np.sqrt(s)
    return (u * root).T.astype(np.float32), s, (root[:, None] * v).astype(np.float32)


def _factor_rows(split: tuple[F32, NDArray[np.float64], F32], rows: slice) -> tuple[F32, F32]:
    return split[0][rows], split[2][rows]


def _starts(n: int) -> NDArray[np.intp]:
    return np.arange(0, n, GROUP)


def _spread(groups: NDArray[Any], n: int) -> NDArray[Any]:
    return groups.repeat(GROUP, axis=1)[:, :n]


def _dot(x: F32, y: F32) -> F32:
    return np.asarray(np.einsum("ki,ki->k", x, y)[:, None], np.float32)


SETTINGS = tuple(
    Baseline(
        f"loraquant {bits}@{share} (our code)",
        bits,
        "our re-implementation of the paper and its released code",
        partial(loraquant, bits=bits, share=share),
    )
    for bits, share in WIDTHS
)
