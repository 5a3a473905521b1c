"""The step that fills a number of bytes: never more, and as little less as can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kronq.errors import ArgumentError
from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import ONE, Product
from kronq.model.layer_names import natural_key
from kronq.model.matrix import Coded, Levels
from kronq.model.second_moments import LayerMoments
from kronq.packed import grouped
from kronq.quantization.file_size import file_size
from kronq.trellis.coded_layers import build, reread
from kronq.trellis.rate_tables import Tables
from kronq.trellis.rounding import Rounded, rounded
from kronq.trellis.stream import encode
from kronq.trellis.stream_layout import lengths
from kronq.trellis.targets import Layer, prepare

Progress = Callable[[int, int], None]

_PASSES = 12
_LEARNING = 3
_SAMPLE = 400_000
"""Parameters that what codes cost is learned from."""
_HEADER = 1200
_ENOUGH = 0.998
"""Of the budget: nearer is not worth another pass."""


def fill(
    adapter: Adapter,
    size: int,
    recipe: Recipe,
    progress: Progress | None = None,
    moments: Mapping[str, LayerMoments] | None = None,
) -> Adapter:
    """The adapter in compact codes of the least error in ``size`` bytes, header included.

    Raises:
        KronqError: The header alone is larger.
        FormatError: A layer has values that are not finite.
    """
    adapter = in_order(adapter)
    layers = prepare(adapter, moments)
    step, tables = _learned(adapter, layers, size)
    best: tuple[int, Rounded] | None = None
    tried: list[tuple[float, int]] = []
    nbytes = 0
    for done in range(_PASSES):
        found, _ = rounded(layers, step, tables, learn=False)
        whole = replace(adapter, layers=build(adapter, layers, found), recipe=recipe)
        nbytes = file_size(whole)
        tried.append((math.log2(step), nbytes))
        if nbytes <= size and (best is None or nbytes > best[0]):
            best = nbytes, found
        if progress is not None:
            progress(done + 1, _PASSES)
        if best is not None and best[0] >= _ENOUGH * size:
            break
        step = _next(tried, size)
    if progress is not None:
        progress(_PASSES, _PASSES)
    if best is None:
        raise ArgumentError(
            "the adapter does not fit",
            found=f"{nbytes:,} bytes",
            expected=f"{size:,} bytes",
            hint="ask for more",
        )
    quantized = replace(adapter, layers=reread(adapter, layers, best[1]), recipe=recipe)
    layers_found = {name: quantized[name] for name in sorted(adapter, key=natural_key)}
    return replace(quantized, layers=layers_found)


def _learned(adapter: Adapter, layers: Sequence[Layer], size: int) -> tuple[float, Tables]:
    """A step near the right one and what codes cost at it, from some layers where there are many.

    From then on the tables rest, so that bytes fall steadily with the step.
    """
    stride = max(1, -(-adapter.parameters // _SAMPLE))
    some = list(layers[::stride])
    names = list(adapter)[::stride]
    part = replace(adapter, layers={name: adapter[name] for name in names})
    share = max(1, (size - _HEADER) * part.parameters // adapter.parameters)
    step, tables = _first(some, share), Tables()
    tried: list[tuple[float, int]] = []
    for _ in range(_LEARNING):
        _, tables = rounded(some, step, tables)
        found, tables = rounded(some, step, tables)
        codes = encode([*build(part, some, found).values()])
        nbytes = 0 if codes is None else len(codes.data)
        tried.append((math.log2(step), max(nbytes, 1)))
        step = _next(tried, share)
    return step, tables


def in_order(adapter: Adapter) -> Adapter:
    """The adapter with its layers in the order in which a file has them when they are coded."""
    ordered = [name for group in grouped(_outlined(adapter)) for name in group]
    return replace(adapter, layers={name: adapter[name] for name in ordered})


def _outlined(adapter: Adapter) -> Adapter:
    """Coded matrices without any levels: the order of the file depends on nothing else."""

    def blank(product: Product) -> Product:
        if product is ONE:
            return ONE
        return Product(*(Coded(m.shape, None, 0, _no_levels) for m in product.matrices))

    layers = {n: replace(d, a=blank(d.a), b=blank(d.b)) for n, d in adapter.items()}
    return replace(adapter, layers=layers)


def _no_levels() -> Levels:
    raise AssertionError


def _first(layers: Sequence[Layer], size: int) -> float:
    """A step at which the entries' entropies, were they Gaussian, add up to the budget."""
    sigma, counts = [], []
    for layer in layers:
        for target, product in zip(layer.targets, layer.outline.products, strict=True):
            for norms, n in ((target.norms, s) for s in lengths(product)):
                sigma.append(norms / math.sqrt(n))
                counts.append(np.full(len(norms), n))
    all_sigma, all_counts = np.concatenate(sigma), np.concatenate(counts)
    top = float(all_sigma.max())
    if top == 0:
        return 1.0
    low, high = top * 2.0**-24, top * 2.0**4
    for _ in range(40):
        step = math.sqrt(low * high)
        # h = log2(σ·√(2πe) / 2Δ) where that is large, and fading out where it is not.
        bits = 0.5 * np.log2(1 + (4.13 * all_sigma / (2 * step)) ** 2)
        low, high = (step, high) if float(bits @ all_counts) > 8 * size else (low, step)
    return math.sqrt(low * high)


def _next(tried: list[tuple[float, int]], size: int) -> float:
    """Between the nearest step that was too small and the nearest too large, aiming just below."""
    goal = size * (1 + _ENOUGH) / 2
    over = [t for t in tried if t[1] > size]
    under = [t for t in tried if t[1] <= size]
    if over and under:
        # The nearest of each kind; interpolation and halving in turn, for bytes fall unevenly.
        a, fa = max(over)
        b, fb = min((t for t in under if t[0] > a), default=max(under, key=lambda t: t[1]))
        t = 0.5 if len(tried) % 2 else (fa - goal) / (fa - fb)
        return float(2.0 ** (a + (b - a) * min(max(t, 0.05), 0.95)))
    at, nbytes = tried[-1]
    # Log of the bytes falls by half or so a doubling; the last two say how fast.
    slope = -0.5
    if len(tried) > 1 and tried[-2][0] != at and tried[-2][1] != nbytes:
        slope = (math.log2(nbytes) - math.log2(tried[-2][1])) / (at - tried[-2][0])
        slope = min(max(slope, -2.0), -0.1)
    move = (math.log2(goal) - math.log2(nbytes)) / slope
    return float(2.0 ** (at + min(max(move, -3.0), 3.0)))
