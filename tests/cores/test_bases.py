"""Bases made of a base's weights: scikit-learn's own are the judge."""

from __future__ import annotations

import numpy as np
import pytest

import kronq
from kronq.cores.frame import make_frame
from kronq.cores.randomized_svd import singular_bases
from kronq.model.frozen_bases import BasisRecipe
from tests.cores.adapters import sklearn_pairs
from tests.cores.weights import RANK, base_weights


def difference(layer: str, b: np.ndarray, a: np.ndarray) -> float:
    """‖B·R·A − ΔW‖ / ‖ΔW‖ with scikit-learn's bases for ΔW, signs of each column aside."""
    b_ref, a_ref = sklearn_pairs()[layer]
    r = np.random.RandomState(1).normal(size=(RANK, RANK))
    signs = np.sign(np.sum(b * b_ref, axis=0))
    delta = b_ref @ r @ a_ref
    return np.linalg.norm(delta - (b * signs) @ r @ (a * signs[:, None])) / np.linalg.norm(delta)


@pytest.mark.parametrize("layer", base_weights())
def test_bases_are_those_of_scikit_learn(layer: str) -> None:
    weight = base_weights()[layer]
    assert difference(layer, *singular_bases(weight, RANK, BasisRecipe())) < 1e-4
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    exact = u[:, :RANK], s[:RANK, None] * vt[:RANK]
    assert difference(layer, *exact) > 5e-3  # it has not converged: no other SVD will do


def test_another_seed_gives_other_bases() -> None:
    layer, weight = next(iter(base_weights().items()))
    assert difference(layer, *singular_bases(weight, RANK, BasisRecipe(seed=7))) > 0.01


def test_frame_has_one_sign_and_gives_r_back() -> None:
    b, a = (m.astype(np.float64) for m in next(iter(sklearn_pairs().values())))
    frame = make_frame(b, a)
    flipped = make_frame(b * [-1, 1, -1, 1, 1, -1], a * np.array([[-1, 1, -1, 1, 1, -1]]).T)
    np.testing.assert_allclose(flipped.up, frame.up, atol=1e-12)
    np.testing.assert_allclose(flipped.down, frame.down, atol=1e-12)
    np.testing.assert_allclose(frame.up.T @ frame.up, np.eye(RANK), atol=1e-12)
    np.testing.assert_allclose(frame.down @ frame.down.T, np.eye(RANK), atol=1e-12)
    r = np.random.RandomState(2).normal(size=(RANK, RANK))
    core = frame.core(frame.b @ r, frame.a)
    np.testing.assert_allclose(frame.up @ core @ frame.down, frame.b @ r @ frame.a, atol=1e-12)
    np.testing.assert_allclose(frame.mapping(core), r, atol=1e-9)


def test_a_tie_of_signs_is_noticed() -> None:
    b = np.array([[1.0, 0], [-1, 0], [0, 1]]) / [np.sqrt(2), 1]
    assert not make_frame(b, np.eye(2, 5)).is_settled


def test_a_weight_without_such_bases() -> None:
    with pytest.raises(kronq.MismatchError, match="a rank of at least 9"):
        singular_bases(np.ones((8, 20), np.float32), 9, BasisRecipe())
    with pytest.raises(kronq.MismatchError, match="finite: False"):
        singular_bases(np.full((8, 20), np.inf, np.float32), 4, BasisRecipe())
