"""The best LoRA of a rank, against numpy's SVD of ΔW multiplied out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kronq
from kronq.errors import ArgumentError
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE
from kronq.quantization.configs import Native
from kronq.writers.low_rank import RankLoss, reduce_rank
from tests import adapters
from tests.adapters import KINDS, dense


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_of_the_rank_is_nearer(kind: str, rank: int) -> None:
    for scale in (0.5, -3.0):
        delta = replace(KINDS[kind](np.random.default_rng(rank)), scale=scale)
        u, s, vt = np.linalg.svd(dense(delta))
        reduced, losses = reduce_rank(Adapter({"a": delta}), rank)
        best = (u[:, :rank] * s[:rank]) @ vt[:rank]
        assert adapters.difference(dense(reduced["a"]), best) <= 2e-6
        expected = np.linalg.norm(s[rank:]) / np.linalg.norm(s)
        if expected < 1e-12:  # the rank is no smaller than that of ΔW
            assert losses["a"].relative_error <= 1e-12
        else:
            assert losses["a"].relative_error == pytest.approx(expected, rel=1e-9)
            assert (reduced["a"].a is ONE, reduced["a"].rank) == (True, rank)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_that_is_not_smaller_changes_nothing(kind: str) -> None:
    adapter = Adapter({"a": KINDS[kind](np.random.default_rng(0))})
    reduced, losses = reduce_rank(adapter, 200)
    assert reduced["a"] is adapter["a"]
    assert losses["a"].squared_error == 0.0
    assert losses["a"].squared_norm == pytest.approx(np.linalg.norm(dense(adapter["a"])) ** 2)


def test_the_error_over_all_layers() -> None:
    adapter = adapters.adapter()
    reduced, losses = reduce_rank(adapter, 3)
    missing = [dense(adapter[name]) - dense(reduced[name]) for name in adapter]
    whole = np.linalg.norm([np.linalg.norm(dense(delta)) for delta in adapter.values()])
    expected = np.linalg.norm([np.linalg.norm(each) for each in missing]) / whole
    assert RankLoss.combine(losses.values()).relative_error == pytest.approx(expected, rel=1e-5)


def test_a_quantized_adapter_and_a_convolution() -> None:
    quantized = kronq.quantize(adapters.adapter(layers=1), Native(bits=4))
    kernel = Adapter({"a": replace(adapters.kron(np.random.default_rng(1)), kernel=(2, 2))})
    for adapter in (quantized, kernel):
        reduced, losses = reduce_rank(adapter, 2)
        for name, delta in reduced.items():
            u, s, vt = np.linalg.svd(dense(adapter[name]))
            best = (u[:, :2] * s[:2]) @ vt[:2]
            assert adapters.difference(dense(delta), best) <= 2e-6
            assert delta.kernel == adapter[name].kernel
            assert losses[name].rank == 2


def test_zeros() -> None:
    zero = replace(adapters.kron(np.random.default_rng(0)), scale=0.0)
    reduced, losses = reduce_rank(Adapter({"a": zero}), 2)
    assert not dense(reduced["a"]).any()
    assert losses["a"].relative_error == 0.0


def test_what_is_no_rank() -> None:
    with pytest.raises(ArgumentError, match="the rank is too small; found 0"):
        reduce_rank(adapters.adapter(), 0)
    with pytest.raises(ArgumentError, match="rank has the wrong type"):
        reduce_rank(adapters.adapter(), 2.5)  # type: ignore[arg-type]
