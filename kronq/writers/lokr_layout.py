"""Layout of PEFT's LoKr: finds the one config from which PEFT derives all layers' shapes.

PEFT 0.21 (``peft/tuners/lokr/layer.py``, ``update_layer``) splits both sides of a layer by
``factorization(dimension, decompose_factor)``, keeps w2 whole when
``r ≥ max(b_out, b_in) / 2``, and makes w1 a product only with ``decompose_both`` and
``r < max(a_out, a_in) / 2``. The kernel of a convolution counts in none of them. A product that
PEFT wants whole is multiplied out, by which a linear layer's w2 never grows, and a w1 is small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

from kronq.errors import UnsupportedError, listing
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.writers.contents import Values
from kronq.writers.lokr_factors import factor_tensors, keeps_product, second_sides, second_tensors


@dataclass(frozen=True)
class Layout:
    """Settings that all layers share."""

    decompose_factor: int
    decompose_both: bool


@dataclass(frozen=True, eq=False)
class LokrLayer:
    """One layer as PEFT stores it.

    Attributes:
        delta: The layer.
        rank: That the config has for it.
        decompose_both: Whether w1 may be a product.
    """

    delta: Delta
    rank: int
    decompose_both: bool

    @property
    def scale(self) -> float:
        """α / rank, not negative."""
        return abs(self.delta.scale)

    @property
    def tensors(self) -> dict[str, Values]:
        """The tensors, made when they are written."""
        return _tensors(self.delta, self.rank, self.decompose_both)


@dataclass(frozen=True)
class _AllowedRanks:
    """Ranks with which PEFT stores a layer as it is: ``least``, or any above if not ``exact``."""

    least: int
    exact: bool


def lokr_layers(adapter: Adapter) -> tuple[Layout, dict[str, LokrLayer]]:
    """Finds the settings, and each layer's rank.

    Raises:
        UnsupportedError: No settings give some layers' shapes; all of those layers are named.
    """
    factor = _decompose_factor(adapter)
    both = any(delta.a.right is not None for delta in adapter.values()) and all(
        _fits_both(delta) for delta in adapter.values()
    )
    allowed = {name: _allowed_ranks(delta, both) for name, delta in adapter.items()}
    common = _common_rank(allowed.values())
    layers = {}
    for name, delta in adapter.items():
        rank = allowed[name]
        r = rank.least if rank.exact else max(rank.least, common)
        layers[name] = LokrLayer(delta, r, both)
    return Layout(factor, both), layers


def _decompose_factor(adapter: Adapter) -> int:
    deep = [name for name, delta in adapter.items() if len(delta.kernel) > 2]
    if deep:
        raise _unsupported(adapter, "PEFT's LoKr has no convolutions of three dimensions", deep)
    cropped = [name for name, delta in adapter.items() if delta.shape != delta.full_shape]
    if cropped:
        raise _unsupported(adapter, "PEFT's LoKr cannot crop", cropped)
    splits = {name: _splits(delta) for name, delta in adapter.items()}
    every = [split for pair in splits.values() for split in pair]

    def mismatched(factor: int) -> list[str]:
        return [
            name
            for name, pair in splits.items()
            if any(factorization(d, factor) != (m, n) for d, m, n in pair)
        ]

    for factor in find_factors(every):
        if not mismatched(factor):
            return factor
    # The message names the layers that do not fit the factor with which most layers fit.
    nearest = min(
        sorted({-1, *(m for _, m, _ in every)}), key=lambda factor: len(mismatched(factor))
    )
    raise _unsupported(
        adapter, "no decompose_factor of PEFT's LoKr gives the factors", mismatched(nearest)
    )


def find_factors(splits: Collection[tuple[int, int, int]]) -> Iterator[int]:
    """Yields the few factors of which one gives all splits, if any factor does.

    With M the largest first part, no smaller factor gives M. A larger factor gives M only if it
    divides no dimension, and then the smallest such factor gives what any other does, except -1,
    which has no bound.

    Args:
        splits: (dimension, first part, second part).
    """
    dimensions, firsts = {d for d, _, _ in splits}, [m for _, m, _ in splits]
    largest = max(firsts)
    yield largest
    yield -1
    yield next(f for f in count(largest + 1) if all(d % f for d in dimensions))


@lru_cache(maxsize=4096)
def factorization(dimension: int, factor: int) -> tuple[int, int]:
    """Splits a dimension as PEFT and LyCORIS do.

    A factor that divides the dimension is the first part; otherwise the first part is the largest
    divisor up to the factor, and the smaller of the two.
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    limit = dimension if factor == -1 else min(factor, dimension)
    m, n = 1, dimension
    while m < n:
        larger = next((k for k in range(m + 1, limit + 1) if dimension % k == 0), None)
        if larger is None:
            break
        m, n = larger, dimension // larger
    return min(m, n), max(m, n)


def _splits(delta: Delta) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    (a_out, a_in), (b_out, b_in) = delta.a.shape, second_sides(delta)
    return (delta.weight_shape[0], a_out, b_out), (delta.weight_shape[1], a_in, b_in)


def _fits_both(delta: Delta) -> bool:
    """Tells whether ``decompose_both`` keeps the layer's w1 as it is."""
    if delta.a.right is None:
        rank = delta.b.rank if _keeps_second(delta) else None
        return rank is None or 2 * rank >= max(delta.a.shape)
    fits = _keeps_first(delta)
    if _keeps_second(delta):
        return fits and delta.a.rank == delta.b.rank
    return fits and 2 * delta.a.rank >= max(second_sides(delta))


def _keeps_first(delta: Delta) -> bool:
    return keeps_product(delta.a, delta.a.shape)


def _keeps_second(delta: Delta) -> bool:
    return keeps_product(delta.b, second_sides(delta))


def _allowed_ranks(delta: Delta, both: bool) -> _AllowedRanks:
    if _keeps_second(delta):
        return _AllowedRanks(delta.b.rank, exact=True)
    if both and _keeps_first(delta):
        return _AllowedRanks(delta.a.rank, exact=True)
    whole = max(*second_sides(delta), *(delta.a.shape if both else ()))
    return _AllowedRanks(max(1, (whole + 1) // 2), exact=False)


def _common_rank(ranks: Iterable[_AllowedRanks]) -> int:
    """Returns the rank that most layers require; without any, the least that all allow."""
    listed = list(ranks)
    exact = Counter(rank.least for rank in listed if rank.exact)
    return exact.most_common(1)[0][0] if exact else max(rank.least for rank in listed)


def _tensors(delta: Delta, rank: int, both: bool) -> dict[str, Values]:
    a_product = both and delta.a.right is not None and 2 * rank < max(delta.a.shape)
    tensors = factor_tensors("lokr_w1", delta.a, a_product)
    if delta.scale < 0:
        first = next(iter(tensors))
        tensors[first] = tensors[first].times(-1)
    return tensors | second_tensors(delta, _keeps_second(delta))


def _unsupported(adapter: Adapter, message: str, names: list[str]) -> UnsupportedError:
    shapes = [
        f"{name} ({_times(d.a.shape)} ⊗ {_times(d.b.shape)} for {_times(d.shape)})"
        for name in names
        for d in [adapter[name]]
    ]
    return UnsupportedError(
        message,
        path=adapter.origin.path,
        found=listing(shapes),
        hint="{to=lora} is exact and takes any shape",
    )


def _times(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"
