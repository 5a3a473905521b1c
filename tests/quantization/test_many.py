"""A stream of adapters, in one process and in several."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest

import kronq
from kronq.model.delta import ONE
from tests.adapters import adapter


def endless() -> Iterator[kronq.Adapter]:
    return (adapter(seed, layers=1, kinds=("lora", "kron")) for seed in count())


@pytest.mark.parametrize("workers", [1, 2])
def test_each_is_quantized_as_alone(workers: int) -> None:
    config = kronq.Compact(size=800)
    quantized = kronq.quantize_many(endless(), config, workers=workers)
    made = [kronq.pack(each) for each in islice(quantized, 5)]
    quantized.close()
    assert made == [kronq.pack(kronq.quantize(each, config)) for each in islice(endless(), 5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_files_are_those_of_each(workers: int) -> None:
    """More of them than are on their way at once, of several sizes."""
    adapters = [adapter(seed, layers=1 + seed % 3, kinds=("lora", "kron")) for seed in range(9)]
    packed = [*kronq.pack_many(adapters, bits=4, workers=workers)]
    assert packed == [kronq.pack(kronq.quantize(each, bits=4)) for each in adapters]


def test_packing_in_memory_gives_the_bytes_of_the_file(tmp_path) -> None:
    quantized = next(kronq.quantize_many(endless(), bits=4))
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    assert kronq.pack(quantized) == path.read_bytes()


def test_what_cannot_be_packed() -> None:
    whole = adapter(kinds=("lora",))
    next(iter(whole.values())).b.left.array[0, 0] = np.nan
    with pytest.raises(kronq.FormatError, match="not finite"):
        kronq.pack(whole)
    with pytest.raises(kronq.FormatError, match="not finite"):
        next(kronq.quantize_many([whole]))


def test_mistakes() -> None:
    with pytest.raises(kronq.ArgumentError, match="one adapter"):
        kronq.quantize_many(adapter())
    with pytest.raises(kronq.ArgumentError, match="workers"):
        kronq.quantize_many([], workers=0)
    with pytest.raises(kronq.ArgumentError, match="workers"):
        kronq.pack_many([], workers=0)


def test_a_lora_that_was_pickled_is_one() -> None:
    copied = pickle.loads(pickle.dumps(adapter(kinds=("lora", "kron"))))  # noqa: S301
    assert [delta.a is ONE for delta in copied.values()] == [True, False] * 3
