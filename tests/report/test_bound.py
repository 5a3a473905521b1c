"""Gaussian rate–distortion bound: its algebra, and simulated codes that stay above it.

The reference is the measured cost of simulated Gaussian factors: an ideal entropy-coded scalar
quantizer (bits = the empirical entropy of its codes) is 1.53 dB away at high rates, never better.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import kronq
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.factor_bound import FactorBound
from tests import adapters
from tests.adapters import dense, matrix
from tests.paths import EXAMPLE

F64 = NDArray[np.float64]


def one_component(m: int, n: int, w: float = 1.0) -> GaussianBound:
    return components([w], m, n)


def components(w: list[float], m: int, n: int) -> GaussianBound:
    """One layer without A."""
    energy = np.array(w, np.float64) ** 2
    free = FactorBound.create([np.zeros(0)], [(1, 1)])
    return GaussianBound(energy.sum(keepdims=True), free, FactorBound.create([energy], [(m, n)]))


def whole_pair(a: int, b: int) -> GaussianBound:
    """One layer of a whole A and a whole B, of so many entries."""
    flat = np.ones(a), np.ones(b)  # single entries: components are no cheaper
    factors = [FactorBound.create([each], [(each.size, 1)]) for each in flat]
    return GaussianBound(np.ones(1), *(replace(f, rows=1e6 * f.rows) for f in factors))


def first_order_db(bound: GaussianBound, bits: float) -> float:
    """Classical reverse water-filling, entries as sources: Σ min(σ², θ), by bisection."""
    a, b = bound.a, bound.b
    energy = bound.energy[b.layer] * b.energy
    coded = a.entries > 0
    variance = [energy / b.rows, energy / b.cols, bound.energy[coded] / a.entries[coded]]
    variance, count = np.concatenate(variance), np.concatenate([b.rows, b.cols, a.entries[coded]])
    low, high = -100.0, float(np.log(variance.max()))
    for _ in range(100):
        middle = (low + high) / 2
        rate = count @ np.maximum(0, np.log(variance) - middle) / (2 * math.log(2))
        low, high = (middle, high) if rate > bits else (low, middle)
    loss = count @ np.minimum(variance, math.exp(low))
    return float(10 * np.log10(bound.energy.sum() / loss))


# The algebra


@pytest.mark.parametrize("rate", [8.0, 12.0, 100.0, 3000.0])
def test_one_component_at_a_high_rate_is_the_closed_form(rate: float) -> None:
    """m + n Gaussians: the least of x + y is 2^(-2·rate)·(m + n)/(m^m·n^n)^(1/(m+n))."""
    m, n = 300, 100
    loss_db = 10 * math.log10((m + n) / (m**0.75 * n**0.25)) - rate * 20 * math.log10(2)
    assert one_component(m, n).snr_db(rate * (m + n)) == pytest.approx(-loss_db, abs=1e-3)
    # m = n: x = y = D for ½·log2(1/D) bits an entry
    error = math.sqrt(2 * 4.0**-rate)
    if error > 1e-9:
        assert one_component(50, 50).bits(error) == pytest.approx(100 * rate, rel=1e-5)


@pytest.mark.parametrize("make", [one_component, whole_pair])
def test_bound_is_the_hull_of_a_brute_force_search(make: Callable[..., GaussianBound]) -> None:
    """Every split of the bits between u and v, or A and B, and the lower hull of the best."""
    m, n = 60, 20
    grid = np.linspace(0, 14, 2801)  # bits an entry
    a, b = np.meshgrid(grid, grid, indexing="ij")
    loss = 1 - (1 - 4.0**-a) * (1 - 4.0**-b)
    spent = np.round((m * a + n * b) / (m + n), 2)
    rates = np.arange(0, 6, 0.01)
    found = np.array([loss[spent == r.round(2)].min() for r in rates])
    for rate in (0.05, 0.3, 0.7, 1.0, 1.5, 2.5, 4.0):
        under, over = rates <= rate, rates > rate
        slope = np.subtract.outer(found[over], found[under])
        slope /= np.subtract.outer(rates[over], rates[under])
        hull = (found[under] + slope * (rate - rates[under])).min()
        told = 10 ** (-make(m, n).snr_db(rate * (m + n)) / 10)
        assert told == pytest.approx(hull, rel=0.01)


def test_a_counts_as_b_does() -> None:
    """Two Gaussian matrices of n entries each: D = 2 · 2^(-2R) at R bits an entry, 21 dB at 4."""
    rng = np.random.default_rng(0)
    one, other = Product(matrix(rng, 24, 24)), Product(matrix(rng, 24, 24))
    bound = gaussian_bound(Adapter({"x": Delta.uncropped(one, other, 1.0)}))
    for rate in (4, 6, 9):
        closed_form = rate * 20 * math.log10(2) - 10 * math.log10(2)
        assert bound.snr_db(rate * 2 * 24**2) == pytest.approx(closed_form, abs=0.03)
    swapped = gaussian_bound(Adapter({"x": Delta.uncropped(other, one, 1.0)}))
    assert swapped.snr_db(3000) == pytest.approx(bound.snr_db(3000))


def test_many_components_at_a_high_rate_are_reverse_water_filling() -> None:
    """And at low rates better than its first order, which counts what is left out twice."""
    bound = components(list(0.9 ** np.arange(30.0)), 400, 700)
    for rate in np.arange(0.1, 12, 0.3):
        bits = rate * 30 * 1100
        exact, first = bound.snr_db(bits), first_order_db(bound, bits)
        assert exact >= first - 1e-9
        if rate > 6:
            assert exact == pytest.approx(first, abs=0.01)


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_monotonic_convex_and_its_own_inverse(kind: str) -> None:
    bound = gaussian_bound(adapters.adapter(kinds=(kind,)))
    bits = np.linspace(0, 20_000, 61)
    snr = np.array([bound.snr_db(b) for b in bits])
    assert snr[0] == 0
    assert (np.diff(snr) > 0).all()
    assert (np.diff(10 ** (-snr / 10), 2) > -1e-12).all()
    back = [bound.bits(10 ** (-db / 20)) for db in snr]
    assert back == pytest.approx(bits, rel=1e-9, abs=1e-6)


def test_error_without_bits_is_the_norm_of_the_adapter() -> None:
    """Cropped or not, whole or not: at no bits the error is ‖ΔW‖."""
    for kind, make in adapters.KINDS.items():
        delta = make(np.random.default_rng(0))
        bound = gaussian_bound(Adapter({"x": delta}))
        assert bound.energy.sum() == pytest.approx(np.sum(dense(delta) ** 2)), kind


def test_no_bits_and_exact_reconstruction() -> None:
    bound = gaussian_bound(adapters.adapter())
    assert (bound.snr_db(0), bound.snr_db(-1), bound.bits(1), bound.bits(1.5)) == (0, 0, 0, 0)
    assert bound.bits(0) == math.inf
    assert math.isfinite(bound.snr_db(1e9))
    zero = gaussian_bound(
        Adapter({n: replace(d, scale=0.0) for n, d in adapters.adapter().items()})
    )
    assert (zero.snr_db(1000), zero.bits(0.5)) == (0, 0)


# What it does not depend on


@pytest.mark.parametrize("kind", ["kron", "lora", "decomposed_a", "cropped"])
def test_bound_does_not_depend_on_gauge_or_place_of_the_scale(kind: str) -> None:
    rng = np.random.default_rng(0)
    delta = adapters.KINDS[kind](rng)
    left, right = delta.b.float32()
    assert right is not None
    gauge = rng.normal(size=(4, 4)) * 10.0 ** np.arange(-2, 2)
    turned = Product(
        Float((left.astype(np.float64) @ gauge).astype(np.float32)),
        Float((np.linalg.inv(gauge) @ right).astype(np.float32)),
    )
    found = [delta, replace(delta, b=turned), adapters.scaled(delta, 8, 1 / 8)]
    if delta.a is not ONE:
        a = Product(*(Float(m.float32() * np.float32(4)) for m in delta.a.matrices))
        louder = delta.scale / 4 ** len(delta.a.matrices)
        found += [replace(delta, a=a, scale=louder), replace(delta, scale=-delta.scale)]
    for bits in (50, 500, 1500):
        told = {round(gaussian_bound(Adapter({"x": d})).snr_db(bits), 3) for d in found}
        assert len(told) == 1
    # … and twice as large a ΔW has the same relative error
    assert gaussian_bound(Adapter({"x": replace(delta, scale=2 * delta.scale)})).snr_db(
        500
    ) == pytest.approx(gaussian_bound(Adapter({"x": delta})).snr_db(500), abs=1e-6)


def test_a_whole_matrix_is_coded_by_entries_or_by_components() -> None:
    """Noise has no components worth their bits; a matrix of rank 1 is m + n numbers, not m·n."""
    rng = np.random.default_rng(0)
    noise = Delta(ONE, Product(matrix(rng, 40, 60)), 1.0, (40, 60))
    told = gaussian_bound(Adapter({"x": noise})).snr_db(3 * 40 * 60)
    assert told == pytest.approx(3 * 20 * math.log10(2), abs=1e-6)
    pair = Product(matrix(rng, 40, 1), matrix(rng, 1, 60))
    kept = Delta(ONE, pair, 1.0, (40, 60))
    whole = Delta(ONE, Product(Float(pair.float64().astype(np.float32))), 1.0, (40, 60))
    for bits in (100, 300, 1000):
        one, other = (gaussian_bound(Adapter({"x": d})).snr_db(bits) for d in (kept, whole))
        assert one == pytest.approx(other, abs=0.01)


def test_a_large_whole_matrix_is_coded_by_entries() -> None:
    rng = np.random.default_rng(0)
    for rows, cols in ((600, 520), (520, 700)):
        low_rank = (rng.normal(size=(rows, 2)) @ rng.normal(size=(2, cols))).astype(np.float32)
        bound = gaussian_bound(
            Adapter({"x": Delta(ONE, Product(Float(low_rank)), 1.0, (rows, cols))})
        )
        for rate in (0.01, 0.5, 2.0):
            told = bound.snr_db(rate * rows * cols)
            assert told == pytest.approx(rate * 20 * math.log10(2), abs=1e-6)


# What it means


def ideal_channel(rng: np.random.Generator, value: F64, x: float) -> F64:
    """Reconstruction of standard Gaussians by an ideal code of the rate ½·log2(1/x)."""
    return (1 - x) * value + math.sqrt(x * (1 - x)) * rng.normal(size=value.shape)


@pytest.mark.parametrize(("x", "y"), [(0.01, 0.02), (0.3, 0.1), (0.7, 0.6), (1.0, 1.0)])
def test_distortion_of_two_coded_factors(x: float, y: float) -> None:
    """Simulates the distortion x + y − x·y."""
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=100_000), rng.normal(size=100_000)
    uu, vv = ideal_channel(rng, u, x), ideal_channel(rng, v, y)
    # ‖u·vᵀ − û·v̂ᵀ‖²
    error = (u @ u) * (v @ v) - 2 * (u @ uu) * (v @ vv) + (uu @ uu) * (vv @ vv)
    assert error / ((u @ u) * (v @ v)) == pytest.approx(x + y - x * y, rel=0.03)


def entropy_coded(values: F64, step: float) -> tuple[F64, float]:
    """Rounds to multiples of ``step``, reconstructs by the means of codes; bits by entropy."""
    codes = np.rint(values / step).astype(np.int64)
    _, index, count = np.unique(codes, return_inverse=True, return_counts=True)
    means = np.bincount(index, values) / count
    share = count / codes.size
    return means[index], float(-codes.size * (share @ np.log2(share)))


@pytest.mark.parametrize(("a", "b"), [((48, 48), (64, 64)), ((16, 16), (96, 96))])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0, 3.0, 5.0])
def test_ideal_scalar_quantizer_of_a_pair_stays_above_the_bound(
    a: tuple[int, int], b: tuple[int, int], rate: float
) -> None:
    """A and B whole, with one step in the units in which errors of both move ΔW alike."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).reshape(-1) for shape in (a, b)]
    reference = Adapter({"x": _pair(values, a, b)})
    norms = [float(np.linalg.norm(x)) for x in values]

    def coded(step: float) -> tuple[Adapter, float]:
        rounded = [entropy_coded(x, step * norm) for x, norm in zip(values, norms, strict=True)]
        return Adapter({"x": _pair([x for x, _ in rounded], a, b)}), sum(n for _, n in rounded)

    low, high = 1e-4, 0.5
    for _ in range(20):
        middle = math.sqrt(low * high)
        fits = coded(middle)[1] <= rate * reference.parameters
        low, high = (low, middle) if fits else (middle, high)
    found, bits = coded(high)
    snr = kronq.measure(reference, found).total.snr_db
    assert snr is not None
    assert 0 < gaussian_bound(reference).snr_db(bits) - snr < 1.7


def _pair(values: list[F64], a: tuple[int, int], b: tuple[int, int]) -> Delta:
    shaped = [v.astype(np.float32).reshape(s) for v, s in zip(values, (a, b), strict=True)]
    return Delta.uncropped(*(Product(Float(each)) for each in shaped), 1.0)


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
def test_ideal_scalar_quantizer_of_gaussian_factors_stays_above_the_bound(rate: float) -> None:
    """1.53 dB away where every component is finely coded, less at low rates, never better."""
    rng = np.random.default_rng(0)
    m, n = 60_000, 40_000
    b1 = (rng.normal(size=(m, 3)) * (1, 0.6, 0.3)).astype(np.float32)
    b2 = rng.normal(size=(3, n)).astype(np.float32)
    reference = Delta(ONE, Product(Float(b1), Float(b2)), 1.0, (m, n))
    bound = gaussian_bound(Adapter({"x": reference}))
    q1, r1 = np.linalg.qr(b1.astype(np.float64))
    q2, r2 = np.linalg.qr(b2.T.astype(np.float64))
    u, s, vt = np.linalg.svd(r1 @ r2.T)
    # An error in an entry of either costs the same: one step for all.
    left, right = q1 @ u * s, q2 @ vt.T * s

    def coded(step: float, kept: int) -> tuple[Product, float]:
        coded_columns = [
            entropy_coded(side[:, k], step) for side in (left, right) for k in range(kept)
        ]
        values, bits = zip(*coded_columns, strict=True)
        b1 = np.stack(values[:kept], axis=1)
        b2 = np.stack(values[kept:]) / s[:kept, None]
        return Product(Float(b1.astype(np.float32)), Float(b2.astype(np.float32))), sum(bits)

    away, first_order = [], []
    for kept in (1, 2, 3):
        low, high = math.log(s[0] * 1e-6), math.log(s[0])
        for _ in range(12):
            middle = (low + high) / 2
            fits = coded(math.exp(middle), kept)[1] <= rate * 3 * (m + n)
            low, high = (low, middle) if fits else (middle, high)
        product, bits = coded(math.exp(high), kept)
        told = kronq.measure(
            Adapter({"x": reference}), Adapter({"x": Delta(ONE, product, 1.0, (m, n))})
        ).total
        assert told.snr_db is not None
        away.append(bound.snr_db(bits) - told.snr_db)
        first_order.append(first_order_db(bound, bits) - told.snr_db)
    assert 0 < min(away) < 1.63
    if rate == 0.5:
        assert min(first_order) < -0.3  # beaten, so it is no bound
    if rate >= 3:
        assert min(away) == pytest.approx(1.53, abs=0.1)


# The example, and the report


def test_bound_of_the_example() -> None:
    """What was published of this adapter took A, 4 × 4, for free; both forms, see the module."""
    adapter = kronq.load(EXAMPLE)
    bound = gaussian_bound(adapter)
    layers = len(adapter)
    without_a = replace(bound, a=FactorBound.create([np.zeros(0)] * layers, [(1, 1)] * layers))
    for bits, first, exact, exact_with_a in (
        (4.15, 24.2, 24.2, 23.9), (4.1, 23.9, 23.9, 23.6), (3.16, 18.2, 18.2, 18.0),
        (3.1, 17.8, 17.9, 17.6), (2.1, 11.8, 12.0, 11.8), (1.5, 8.1, 8.6, 8.5),
        (1.0, 5.1, 6.0, 5.9), (0.5, 1.8, 3.4, 3.3),
    ):  # fmt: skip
        total = bits * adapter.parameters
        assert first_order_db(without_a, total) == pytest.approx(first, abs=0.06)
        assert without_a.snr_db(total) == pytest.approx(exact, abs=0.06)
        assert bound.snr_db(total) == pytest.approx(exact_with_a, abs=0.06)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("kind", ["kron", "lora"])
def test_report_has_the_bound_of_the_file(kind: str, bits: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "kron": lambda: adapters.kron(rng, b=(200, 150)),
        "lora": lambda: adapters.lora(rng, 200, 150),
    }
    adapter = Adapter({f"l.{i}": shapes[kind]() for i in range(4)})
    bound = gaussian_bound(adapter)
    total = kronq.measure(adapter, kronq.quantize(adapter, bits=bits)).total
    assert total.snr_db is not None
    assert total.bound_snr_db is not None
    assert total.bits_above_bound is not None
    assert total.bound_snr_db == bound.snr_db(8 * total.bytes)
    assert total.bound_snr_db > total.snr_db
    needed = (total.bits_per_parameter - total.bits_above_bound) * total.parameters
    assert 0 < needed < 8 * total.bytes
    assert bound.snr_db(needed) == pytest.approx(total.snr_db, abs=1e-6)


def test_no_bound_without_an_error() -> None:
    adapter = adapters.adapter()
    total = kronq.measure(adapter, adapter).total
    assert (total.bound_snr_db, total.bits_above_bound) == (None, None)


def test_an_error_of_100_percent_needs_no_bits() -> None:
    adapter = adapters.adapter()
    nothing = Adapter({n: replace(d, scale=0.0) for n, d in adapter.items()})
    total = kronq.measure(adapter, nothing).total
    assert (total.snr_db, total.bits_above_bound) == (0, total.bits_per_parameter)


def test_a_curve_is_made_of_points_of_the_bound() -> None:
    adapter = kronq.load(EXAMPLE)
    bound = gaussian_bound(adapter)
    curve = bound.curve(8 * adapter.parameters, 24)
    assert curve[0] == (0.0, 0.0)
    assert curve[-1][0] == pytest.approx(8 * adapter.parameters)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(curve))
    for bits, db in curve:
        assert db == pytest.approx(bound.snr_db(bits), abs=1e-9)
