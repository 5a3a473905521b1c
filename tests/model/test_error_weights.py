"""Reduced moments give the error that the multiplied-out matrices give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kronq.model.activation_norms import squared_activation_norms
from kronq.model.delta import Delta, Product
from kronq.model.error_weights import error_weight, reduce_moments
from kronq.model.matrix import Float
from kronq.model.second_moments import LayerMoments
from kronq.model.squared_norms import squared_norms
from tests.adapters import KINDS, Rng, dense


def second_moment(rng: Rng, size: int) -> NDArray[np.float32]:
    x = rng.normal(size=(2 * size, size)) * rng.lognormal(size=size)
    return (x.T @ x / len(x)).astype(np.float32)


def with_error(delta: Delta, error: NDArray[np.float64]) -> Delta:
    """Returns the layer with B + error in place of B."""
    whole = delta.b.float64() + error
    return replace(delta, b=Product(Float(whole.astype(np.float32))))


def counted(delta: Delta, moment: LayerMoments, error: NDArray[np.float64]) -> float:
    left, right = reduce_moments(delta, moment)
    outer = error if left is None else left @ error
    return float(np.vdot(outer @ right, error))


@pytest.mark.parametrize("kind", ["kron", "lora", "full_b", "decomposed_a"])
def test_inputs_are_exact(kind: str) -> None:
    rng = np.random.default_rng(0)
    delta = KINDS[kind](rng)
    moment = LayerMoments(second_moment(rng, delta.shape[1]))
    error = rng.normal(size=delta.b.shape)
    expected = squared_activation_norms(delta, with_error(delta, error), moment).error
    assert counted(delta, moment, error) == pytest.approx(expected, rel=1e-4)


def test_outputs_of_a_lora_are_exact() -> None:
    rng = np.random.default_rng(0)
    delta = KINDS["lora"](rng)
    moment = LayerMoments(second_moment(rng, delta.shape[1]), second_moment(rng, delta.shape[0]))
    error = rng.normal(size=delta.b.shape)
    expected = squared_activation_norms(delta, with_error(delta, error), moment).error
    assert counted(delta, moment, error) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("white", ["rows", "columns"])
def test_outputs_are_right_on_average_over_white_errors(kind: str, white: str) -> None:
    """For E = u·vᵀ, averaged over all unit vectors u, or v; cropped, with output moments."""
    rng = np.random.default_rng(0)
    delta = KINDS[kind](rng)
    moment = LayerMoments(second_moment(rng, delta.shape[1]), second_moment(rng, delta.shape[0]))
    rows, cols = delta.b.shape
    u, v = rng.normal(size=rows), rng.normal(size=cols)
    errors: list[NDArray[np.float64]] = (
        [np.outer(unit, v) for unit in np.eye(rows)]
        if white == "rows"
        else [np.outer(u, unit) for unit in np.eye(cols)]
    )

    def exact(error: NDArray[np.float64]) -> float:
        return squared_activation_norms(delta, with_error(delta, error), moment).error

    found = sum(counted(delta, moment, error) for error in errors)
    assert found == pytest.approx(sum(map(exact, errors)), rel=1e-3)


def test_cropped_rows_have_no_weight() -> None:
    rng = np.random.default_rng(0)
    delta = KINDS["cropped"](rng)
    left, _ = reduce_moments(delta, LayerMoments(np.eye(delta.shape[1], dtype=np.float32)))
    assert left is not None
    diagonal = np.diag(left)
    assert np.allclose(left, np.diag(diagonal))
    assert diagonal[:19].min() > diagonal[19:].max()  # 91 rows are 3·24 + 19


def test_error_weight_without_moments() -> None:
    rng = np.random.default_rng(0)
    delta = KINDS["kron"](rng)
    error = rng.normal(size=delta.b.shape)
    expected = squared_norms(delta, with_error(delta, error)).error
    assert error_weight(delta) * float(np.vdot(error, error)) == pytest.approx(expected, rel=1e-4)
    assert np.linalg.norm(dense(delta)) ** 2 == pytest.approx(
        error_weight(delta) * float(np.linalg.norm(delta.b.float64()) ** 2), rel=1e-4
    )
