"""The step that fills a file of a given size with compact codes: never more, and hardly less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kronq.errors import ArgumentError
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import ONE, Delta, Product
from kronq.model.layer_names import natural_key
from kronq.model.second_moments import LayerMoments
from kronq.packed import group_layers
from kronq.quantization.compact.step_search import CLOSE, StepSearch
from kronq.quantization.config_checks import MAX_BPW
from kronq.quantization.file_size import SMALL_FILE, file_size
from kronq.trellis.coded_layers import build_coded_layers, share_stream
from kronq.trellis.coded_matrix import EntropyCoded, MatrixLevels
from kronq.trellis.layer_shape import channel_lengths
from kronq.trellis.product_target import LayerTarget
from kronq.trellis.rate_tables import RateTables
from kronq.trellis.rounding import round_and_learn, round_targets
from kronq.trellis.stream import encode_layers
from kronq.trellis.targets import prepare_targets

_PASSES = 12
_LEARNING_PASSES = 3
_SAMPLE = 400_000
"""Parameters that the rate tables are learned from."""
_HEADER = 1200
"""Typical bytes of a header, where only some layers are coded."""


@dataclass(frozen=True, eq=False)
class FilledSize:
    """An adapter in compact codes of a size, and how its levels were chosen.

    Attributes:
        adapter: The quantized adapter.
        step: Of the levels.
        tables: Rates of codes.
    """

    adapter: Adapter
    step: float
    tables: RateTables


def fill_size(
    adapter: Adapter,
    size: int,
    recipe: Recipe,
    progress: Progress | None = None,
    moments: Mapping[str, LayerMoments] | None = None,
) -> FilledSize:
    """Quantizes to the compact codes of least error in ``size`` bytes.

    Args:
        adapter: As it was trained.
        size: Bytes of the file, header included. Of more than ``MAX_BPW`` bits per weight and a
            header, that many are filled.
        recipe: Recipe of the file.
        progress: Called with (passes done, passes at most).
        moments: Second moments of every layer, or None.

    Raises:
        ArgumentError: The header alone is larger.
    """
    adapter = order_as_in_file(adapter)
    targets = prepare_targets(adapter, moments)
    size = _usable_size(adapter, targets, size, recipe)
    step, tables = _learn_tables(adapter, targets, size)
    best: tuple[int, dict[str, Delta], float] | None = None
    search = StepSearch(size)
    nbytes = 0
    for done in range(_PASSES):
        levels = round_targets(targets, step, tables)
        layers = build_coded_layers(adapter, targets, levels)
        stream = encode_layers([*layers.values()])
        assert stream is not None  # noqa: S101
        nbytes = file_size(replace(adapter, layers=layers, recipe=recipe), stream)
        if nbytes <= size and (best is None or nbytes > best[0]):
            best = nbytes, share_stream(layers, stream), step
        if progress is not None:
            progress(done + 1, _PASSES)
        if best is not None and best[0] >= CLOSE * size:
            break
        step = search.next_step(step, nbytes)
    if progress is not None:
        progress(_PASSES, _PASSES)
    if best is None:
        raise ArgumentError(
            "the adapter does not fit",
            found=f"{nbytes:,} bytes",
            expected=f"{size:,} bytes",
            hint="ask for more",
        )
    ordered = {name: best[1][name] for name in sorted(adapter, key=natural_key)}
    return FilledSize(replace(adapter, layers=ordered, recipe=recipe), best[2], tables)


def _usable_size(
    adapter: Adapter, targets: Sequence[LayerTarget], size: int, recipe: Recipe
) -> int:
    """Returns ``size``, or the bytes of ``MAX_BPW`` bits per weight and a header, if it is more."""
    most = MAX_BPW * adapter.parameters // 8
    if size <= most:
        return size
    zeros = round_targets(targets, gaussian_step(targets, 0), RateTables())
    layers = build_coded_layers(adapter, targets, zeros)
    return min(size, most + file_size(replace(adapter, layers=layers, recipe=recipe)))


def _learn_tables(
    adapter: Adapter, targets: Sequence[LayerTarget], size: int
) -> tuple[float, RateTables]:
    """Returns a step near the right one and the rate tables at it.

    Large adapters are sampled by layers. The tables stay fixed from then on, so that bytes fall
    steadily with the step.
    """
    if size < SMALL_FILE:  # learned shifts would take more in the manifest than they gain
        codes = min(size // 2, MAX_BPW * adapter.parameters // 8)
        return gaussian_step(targets, codes), RateTables(shifts=(0, 0, 0))
    stride = max(1, -(-adapter.parameters // _SAMPLE))
    sample = list(targets[::stride])
    names = list(adapter)[::stride]
    part = replace(adapter, layers={name: adapter[name] for name in names})
    share = max(1, (size - _HEADER) * part.parameters // adapter.parameters)
    step, tables = gaussian_step(sample, share), RateTables()
    search = StepSearch(share)
    for _ in range(_LEARNING_PASSES):
        _, tables = round_and_learn(sample, step, tables)
        levels, tables = round_and_learn(sample, step, tables)
        stream = encode_layers([*build_coded_layers(part, sample, levels).values()])
        nbytes = 0 if stream is None else len(stream.data)
        step = search.next_step(step, max(nbytes, 1))
    return step, tables


def order_as_in_file(adapter: Adapter) -> Adapter:
    """Returns the adapter with its layers in the order of a file of compact codes."""
    ordered = [name for group in group_layers(_with_empty_matrices(adapter)) for name in group]
    return replace(adapter, layers={name: adapter[name] for name in ordered})


def _with_empty_matrices(adapter: Adapter) -> Adapter:
    """Returns coded matrices without levels, on which the order of the file does not depend."""

    def empty(product: Product) -> Product:
        if product is ONE:
            return ONE
        return Product(*(EntropyCoded(m.shape, None, 0, _no_levels) for m in product.matrices))

    layers = {n: replace(d, a=empty(d.a), b=empty(d.b)) for n, d in adapter.items()}
    return replace(adapter, layers=layers)


def _no_levels() -> MatrixLevels:
    raise AssertionError


def gaussian_step(targets: Sequence[LayerTarget], size: int) -> float:
    """Returns the step at which Gaussian entries would have entropies of ``size`` bytes."""
    sigmas, counts = [], []
    for layer in targets:
        for target, product in zip(layer.products, layer.shape.products, strict=True):
            for norms, n in ((target.norms, s) for s in channel_lengths(product)):
                sigmas.append(norms / math.sqrt(n))
                counts.append(np.full(len(norms), n))
    sigma, count = np.concatenate(sigmas), np.concatenate(counts)
    top = float(sigma.max())
    if top == 0:
        return 1.0
    low, high = top * 2.0**-24, top * 2.0**4
    for _ in range(40):
        step = math.sqrt(low * high)
        # h = log2(σ·√(2πe) / 2Δ) where that is large, fading out to 0 where it is small.
        bits = 0.5 * np.log2(1 + (4.13 * sigma / (2 * step)) ** 2)
        low, high = (step, high) if float(bits @ count) > 8 * size else (low, step)
    return math.sqrt(low * high)
