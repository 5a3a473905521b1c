"""Flattened names that are nothing but fronts of paths."""

from __future__ import annotations

import time

import pytest

from kronq.readers.known_paths import restore_dots


@pytest.mark.parametrize("count", [40, 20_000])
def test_fronts_without_end(count: int) -> None:
    start = time.process_time()
    restore_dots("text_model_" * count + "x")
    assert time.process_time() - start < 3
