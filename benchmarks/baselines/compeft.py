"""ComPEFT (arXiv 2311.13171): the largest weights' signs, one scale, and Golomb-coded positions.

Of all weights of an adapter the share k of largest magnitude is kept, as signs; their magnitude is
one number for all, α·σ, where σ is the standard deviation of the adapter's weights. The paper
chooses α by validation; here it is the one of least squared error, which is the mean magnitude of
what is kept. Positions are the gaps between kept weights, Golomb-coded with the parameter for this
k (STC, arXiv 1903.02891, as the paper counts its bytes).

In its favour the norms of each pair of factors are made equal first, which leaves their product as
it is: with one scale for all, a small B1 would be dropped whole. The paper's task vector is the
adapter less its initial values, which no file has; here it is the adapter.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.baseline import Baseline, BaselineFile, a_to_float16, make_file
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.matrix import F32, Float

SHARES = (0.05, 0.1, 0.2)
_Bits = NDArray[np.uint8]


def compeft(adapter: Adapter, share: float) -> BaselineFile:
    """Keeps the signs of the share of weights with the largest magnitudes."""
    factors = {name: _balanced(delta) for name, delta in adapter.items()}
    weights = np.concatenate([f.reshape(-1) for pair in factors.values() for f in pair])
    kept = np.zeros(weights.size, bool)
    kept[np.argsort(-np.abs(weights), kind="stable")[: max(1, round(share * weights.size))]] = True
    scale = np.float16(np.abs(weights[kept]).mean())
    ternary = np.where(kept, np.where(weights < 0, -1, 1), 0).astype(np.int8)
    layers: dict[str, Delta] = {}
    tensors: dict[str, NDArray[Any]] = {"scale": np.array([scale])}
    start = 0
    for name, delta in adapter.items():
        size = sum(f.size for f in factors[name])
        codes = ternary[start : start + size]
        start += size
        a, a_tensors = a_to_float16(delta)
        parts = [encode(codes, share), *(x.reshape(-1).view(np.uint8) for x in a_tensors.values())]
        tensors[name] = np.concatenate(parts)
        layers[name] = replace(delta, a=a, b=_product(codes, factors[name], scale))
    return make_file(adapter, layers, tensors)


def golomb_bits(share: float) -> int:
    """Returns the bits of a gap's remainder that are best for gaps at this density."""
    golden = (math.sqrt(5) + 1) / 2
    return max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log(1 - share))))


def encode(codes: NDArray[np.int8], share: float) -> _Bits:
    """Encodes −1, 0 and 1: the number of others than 0, then a gap and a sign for each."""
    places, low = np.flatnonzero(codes), golomb_bits(share)
    gaps = np.diff(places, prepend=-1) - 1
    quotients = gaps >> low
    ends = np.cumsum(quotients + 1 + low + 1)
    bits = np.zeros(int(ends[-1]) if places.size else 0, np.uint8)
    starts = ends - (quotients + 2 + low)
    # A quotient in ones, a zero, the remainder, and whether the weight is negative.
    marks = np.zeros(bits.size + 1, np.int64)
    np.add.at(marks, starts, 1)
    np.add.at(marks, starts + quotients, -1)
    bits |= np.cumsum(marks)[:-1].astype(np.uint8)
    for bit in range(low):
        bits[starts + quotients + 1 + bit] = gaps >> bit & 1
    bits[ends - 1] = codes[places] < 0
    count = np.array([places.size], np.uint32).view(np.uint8)
    return np.concatenate([count, np.packbits(bits, bitorder="little")])


def decode(data: _Bits, size: int, share: float) -> NDArray[np.int8]:
    """Decodes what ``encode`` wrote, a bit at a time."""
    count, low = int(data[:4].copy().view(np.uint32)[0]), golomb_bits(share)
    bits = iter(np.unpackbits(data[4:], bitorder="little").tolist())
    codes, place = np.zeros(size, np.int8), -1
    for _ in range(count):
        quotient = 0
        while next(bits):
            quotient += 1
        place += 1 + (quotient << low) + sum(next(bits) << bit for bit in range(low))
        codes[place] = -1 if next(bits) else 1
    return codes


def _balanced(delta: Delta) -> list[F32]:
    """Returns the factors of B with equal norms."""
    factors = [m.float32() for m in delta.b.matrices]
    if len(factors) == 1:
        return factors
    norms = [float(np.linalg.norm(f)) for f in factors]
    ratio = np.float32(math.sqrt(norms[1] / norms[0])) if all(norms) else np.float32(1)
    return [factors[0] * ratio, factors[1] / ratio]


def _product(codes: NDArray[np.int8], factors: list[F32], scale: np.float16) -> Product:
    parts = np.split(codes, np.cumsum([f.size for f in factors])[:-1])
    values = (np.float32(scale) * part.astype(np.float32) for part in parts)
    return Product(*(Float(v.reshape(f.shape)) for v, f in zip(values, factors, strict=True)))


SETTINGS = tuple(
    Baseline(
        f"compeft {share:.0%} (our code)",
        2,
        "our re-implementation of the paper",
        partial(compeft, share=share),
    )
    for share in SHARES
)
