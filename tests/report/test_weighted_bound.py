"""The bound of the activation error: with white inputs the plain one, and what it means.

As for the plain bound, the judge is an ideal entropy-coded scalar quantizer of Gaussian factors,
here with a step for every direction of the inputs as loud as it is.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import kronq
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.model.second_moments import Moment, Moments
from kronq.report import gaussian_bound, measure
from kronq.report.activation_error import activation_energies
from kronq.report.weighted_bound import WeightedBound, bound_of
from tests import adapters
from tests.model.test_shared_bases import moment
from tests.report.test_bound import EXAMPLE, entropy_coded

F64 = NDArray[np.float64]


def white(adapter: Adapter, loudness: float = 3.0) -> Moments:
    return Moments(
        {n: Moment(np.eye(d.shape[1], dtype=np.float32) * loudness) for n, d in adapter.items()}, 1
    )


@pytest.mark.parametrize("kind", ["kron", "lora", "decomposed_a", "full_b"])
def test_with_white_inputs_it_is_the_plain_bound(kind: str) -> None:
    """Cropped layers apart, for which the plain one does not know which rows and columns count."""
    adapter = adapters.adapter(kinds=(kind,))
    plain, seen = gaussian_bound(adapter), gaussian_bound(adapter, white(adapter))
    for rate in (0.1, 0.5, 1, 2, 4, 8, 30, 100):
        bits = rate * adapter.parameters
        assert seen.snr_db(bits) == pytest.approx(plain.snr_db(bits), abs=0.005)


def test_with_white_inputs_on_a_real_adapter() -> None:
    adapter = kronq.load(EXAMPLE)
    some = Adapter({name: adapter[name] for name in list(adapter)[:21]})
    plain, seen = gaussian_bound(some), gaussian_bound(some, white(some))
    for rate in (0.5, 1, 2, 4):
        bits = rate * some.parameters
        assert seen.snr_db(bits) == pytest.approx(plain.snr_db(bits), abs=0.005)


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_monotonic_convex_and_its_own_inverse(kind: str) -> None:
    adapter = adapters.adapter(kinds=(kind,))
    rng = np.random.default_rng(0)
    seen = Moments({n: Moment(moment(rng, d.shape[1])) for n, d in adapter.items()}, 1)
    bound = gaussian_bound(adapter, seen)
    bits = np.linspace(0, 60_000, 201)
    snr = np.array([bound.snr_db(b) for b in bits])
    assert snr[0] == 0
    assert (np.diff(snr) > 0).all()
    assert (np.diff(10 ** (-snr / 10), 2) > -1e-12).all()
    back = [bound.bits(10 ** (-db / 20)) for db in snr]
    assert back == pytest.approx(bits, rel=1e-9, abs=1e-6)


def test_the_ends() -> None:
    adapter = adapters.adapter(layers=1)
    bound = gaussian_bound(adapter, white(adapter))
    assert (bound.snr_db(0), bound.snr_db(-1), bound.bits(1), bound.bits(1.5)) == (0, 0, 0, 0)
    assert bound.bits(0) == math.inf
    assert math.isfinite(bound.snr_db(1e9))
    for nothing in (
        gaussian_bound(adapter, white(adapter, 0.0)),
        gaussian_bound(Adapter({n: replace(d, scale=0.0) for n, d in adapter.items()}),
                       white(adapter)),
    ):  # fmt: skip
        assert (nothing.snr_db(1000), nothing.bits(0.5)) == (0, 0)


def test_inputs_of_few_directions_cost_few_bits() -> None:
    """What no input ever has need not be coded: 10 of 300 columns are all of v."""
    rng = np.random.default_rng(0)
    delta = adapters.lora(rng, 20, 300, 3)
    few = np.diag(np.float32([1] * 10 + [0] * 290))
    seen = gaussian_bound(Adapter({"x": delta}), Moments({"x": Moment(few)}, 1))
    left, right = (m.float32() for m in delta.b.matrices)
    narrow = Delta(ONE, Product(Float(left), Float(right[:, :10].copy())), 2.0, (20, 10))
    alone = gaussian_bound(Adapter({"x": narrow}))
    for bits in (30, 100, 400):
        assert seen.snr_db(bits) == pytest.approx(alone.snr_db(bits), abs=0.005)


def spectrum(n: int, steep: float) -> F64:
    return np.geomspace(1, 10**-steep, n)


@pytest.mark.parametrize("steep", [1.0, 3.0])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0, 4.0])
def test_gaussian_factors_by_an_ideal_scalar_quantizer(rate: float, steep: float) -> None:
    """1.53 dB away where every direction is finely coded, less at low rates, never better.

    The inputs' directions are the axes, and B2 is coded along them in units of their loudness, in
    16 classes; both factors in the gauge of the activations' singular components.
    """
    rng = np.random.default_rng(0)
    m, n, r = 30_000, 40_000, 3
    loud = np.sqrt(spectrum(n, steep))
    b1 = rng.normal(size=(m, r)) * (1, 0.6, 0.3)
    b2 = rng.normal(size=(r, n))
    bound = _bound_of(b1, b2, loud)
    q1, r1 = np.linalg.qr(b1)
    q2, r2 = np.linalg.qr((b2 * loud).T)
    u, s, vt = np.linalg.svd(r1 @ r2.T)
    left, right = q1 @ u * s, q2 @ vt.T * s
    whole = float(np.sum(s**2))
    classes = np.array_split(np.arange(n), 16)

    def coded(step: float, kept: int) -> tuple[float, float]:
        """Squared error and bits."""
        bits, error = 0.0, float(np.sum(s[kept:] ** 2))
        for k in range(kept):
            values, spent = entropy_coded(left[:, k], step)
            bits += spent
            found = np.empty(n)
            for part in classes:
                found[part], spent = entropy_coded(right[part, k], step)
                bits += spent
            uu, vv = values / s[k], found / s[k]
            one, two = left[:, k] / s[k], right[:, k] / s[k]
            inner = (one @ uu) * (two @ vv)
            error += s[k] ** 2 * (1 - 2 * inner + (uu @ uu) * (vv @ vv))
        return error, bits

    away = []
    for kept in (1, 2, 3):
        low, high = math.log(s[0] * 1e-7), math.log(s[0])
        for _ in range(10):
            middle = (low + high) / 2
            fits = coded(math.exp(middle), kept)[1] <= rate * r * (m + n)
            low, high = (low, middle) if fits else (middle, high)
        error, bits = coded(math.exp(high), kept)
        away.append(bound.snr_db(bits) - 10 * math.log10(whole / error))
    assert 0 < min(away) < 1.63
    if rate == 4:
        assert min(away) == pytest.approx(1.53, abs=0.1)


def _bound_of(b1: F64, b2: F64, loud: F64) -> WeightedBound:
    """The bound of a layer too large for its moment to be written out: from its parts."""
    root = np.linalg.qr(b1, mode="r")
    energy = np.linalg.eigvalsh(root @ (b2 * loud**2 @ b2.T) @ root.T)
    share = np.sort(loud**2)[::-1]
    return WeightedBound(bound_of(energy, share / share.sum(), len(b1)))


@pytest.mark.parametrize("steep", [0.0, 2.0, 6.0])
def test_no_other_components_are_better(steep: float) -> None:
    """Turned ones have less unequal energies, also where a few inputs are nearly all."""
    rng = np.random.default_rng(0)
    m, n, r = 200, 300, 6
    share = spectrum(n, steep) / spectrum(n, steep).sum()
    b2 = rng.normal(size=(r, n)) * np.geomspace(1, 0.05, r)[:, None]
    gram = b2 * share @ b2.T
    best = bound_of(np.linalg.eigvalsh(gram), share, m)
    for _ in range(5):
        turn = np.linalg.qr(rng.normal(size=(r, r)))[0]
        other = bound_of(np.diag(turn.T @ gram @ turn), share, m)
        for rate in (0.1, 0.5, 1, 2, 4, 8):
            bits = rate * r * (m + n)
            assert WeightedBound(best).snr_db(bits) >= WeightedBound(other).snr_db(bits) - 1e-6


def test_the_report_tells_it_of_the_file() -> None:
    """Codes that look at nothing but ΔW are further from this bound than from the plain one."""
    rng = np.random.default_rng(0)
    adapter = Adapter({f"l.{i}": adapters.kron(rng, b=(200, 150)) for i in range(3)})
    seen = Moments({n: Moment(moment(rng, d.shape[1], 2)) for n, d in adapter.items()}, 1)
    bound = gaussian_bound(adapter, seen)
    quantized = kronq.quantize(adapter, 4)
    total = measure(adapter, quantized, moments=seen).total
    assert total.activation_snr_db is not None
    assert total.activation_bound_snr_db == bound.snr_db(8 * total.bytes)
    assert total.activation_bound_snr_db > total.activation_snr_db
    assert total.activation_bits_above_bound is not None
    assert total.bits_above_bound is not None
    assert total.activation_bits_above_bound > total.bits_above_bound
    needed = (total.bits_per_parameter - total.activation_bits_above_bound) * total.parameters
    assert bound.snr_db(needed) == pytest.approx(total.activation_snr_db, abs=1e-6)


def test_all_energy_is_counted() -> None:
    """Cropped or not: the curve begins at E‖ΔW·x‖²."""
    rng = np.random.default_rng(0)
    for kind, make in adapters.KINDS.items():
        delta = make(rng)
        given = Moment(moment(rng, delta.shape[1]))
        bound = gaussian_bound(Adapter({"x": delta}), Moments({"x": given}, 1))
        expected = activation_energies(delta, delta, given).reference
        assert bound.curve.loss[0] == pytest.approx(expected), kind  # type: ignore[attr-defined]
