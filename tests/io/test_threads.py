"""Work over layers in threads."""

from __future__ import annotations

import threading

import pytest

from kronq.io import threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(threads, "THREADS", 2)


def test_large_items_are_worked_on_together_and_stay_in_order():
    barrier = threading.Barrier(2, timeout=10)

    def work(item: int) -> int:
        barrier.wait()
        return 10 * item

    assert [*threads.map_large(work, range(6), values=threads.LARGE)] == [0, 10, 20, 30, 40, 50]


def test_small_items_stay_in_one_thread():
    found = threads.map_large(lambda _: threading.current_thread(), range(3), values=10)
    assert set(found) == {threading.current_thread()}


def test_no_more_items_are_taken_than_there_are_threads():
    taken: list[int] = []

    def items():
        for item in range(8):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        return len(taken) - item

    assert max(threads.map_large(work, items(), values=threads.LARGE)) <= 3


def test_an_error_of_one_item_is_raised():
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        list(threads.map_large(work, range(5), values=threads.LARGE))
