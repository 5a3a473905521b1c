"""Items in shared memory: what arrives is what was sent, and memory is used again."""

from __future__ import annotations

import contextlib
import gc

import ml_dtypes
import numpy as np
import pytest

from kronq.io.shared_items import Sender, receive


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
def test_arrays_arrive(dtype: type) -> None:
    values = np.arange(60).reshape(6, 10)
    arrays = [values.astype(dtype), values.T.astype(dtype), values.astype(dtype)[:, ::3]]
    arrays += [np.zeros((0, 3), dtype), np.array(1, dtype)]
    arrays[0].flags.writeable = False
    with contextlib.closing(Sender()) as sender:
        sent = sender.send({"arrays": arrays, "text": "é"})
        found = receive(sent)
        assert found["text"] == "é"
        for one, two in zip(found["arrays"], arrays, strict=True):
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)
        assert not found["arrays"][0].flags.writeable
        del found, one
        gc.collect()


def test_memory_is_used_again() -> None:
    with contextlib.closing(Sender()) as sender:
        sent = [sender.send(np.full(1000, number)) for number in range(3)]
        assert [receive(each)[0] for each in sent] == [0, 1, 2]
        assert len({each.block for each in sent}) == 3
        sender.received(sent[1])
        assert sender.send(np.full(900, 3)).block == sent[1].block
        assert receive(sent[2])[0] == 2


def test_no_arrays() -> None:
    with contextlib.closing(Sender()) as sender:
        sent = sender.send(("a", 1))
        assert sent.block is None
        assert receive(sent) == ("a", 1)
        sender.received(sent)
