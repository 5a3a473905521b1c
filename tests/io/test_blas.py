"""BLAS in one thread while kronq works on small matrices."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import kronq
from kronq.io.blas import small_matrices
from tests.adapters import adapter


def blas_threads() -> set[int]:
    _ = np.ones((2, 2)) @ np.ones((2, 2))
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS has no number of threads")
        yield


def test_one_thread_inside_and_as_many_as_before_after():
    with small_matrices():
        assert blas_threads() == {1}
        with small_matrices():
            pass
        assert blas_threads() == {1}
    assert blas_threads() == {2}


def test_an_error_restores_them():
    with pytest.raises(ValueError, match="inside"), small_matrices():
        raise ValueError("inside")
    assert blas_threads() == {2}


def test_blocks_of_two_threads_that_end_in_any_order():
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with small_matrices():
            entered.set()
            leave.wait(10)

    with small_matrices():
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(10)
    assert blas_threads() == {2}
    leave.set()
    thread.join()
    assert blas_threads() == {2}


def test_quantizing_and_measuring_run_in_one():
    seen: list[set[int]] = []
    source = adapter()
    quantized = kronq.quantize(source, progress=lambda *_: seen.append(blas_threads()))
    assert seen
    assert all(each == {1} for each in seen)
    kronq.measure(source, quantized)
    assert blas_threads() == {2}
