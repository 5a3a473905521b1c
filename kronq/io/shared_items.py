"""Items whose arrays go to other processes in shared memory: a pipe takes 64 KB at a time."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class SharedItem:
    """An item on its way.

    Attributes:
        data: The item as ``pickle`` writes it, without its arrays.
        block: Name of the memory that they are in; None for none.
        sizes: Their bytes.
    """

    data: bytes
    block: str | None
    sizes: Sequence[int]


class Sender:
    """Memory for items on their way, which is used again."""

    def __init__(self) -> None:
        self._free: list[SharedMemory] = []
        self._used: dict[str, SharedMemory] = {}

    def send(self, item: object) -> SharedItem:
        """Writes an item's arrays to shared memory, where they stay until it is ``received``."""
        buffers: list[memoryview] = []
        data = _dump(item, lambda buffer: buffers.append(buffer.raw()))
        sizes = [buffer.nbytes for buffer in buffers]
        if not sizes:
            return SharedItem(data, None, ())
        block = self._take(sum(map(_aligned, sizes)))
        memory, start = _memory(block), 0
        for buffer in buffers:
            memory[start : start + buffer.nbytes] = buffer
            start += _aligned(buffer.nbytes)
        return SharedItem(data, block.name, sizes)

    def received(self, item: SharedItem) -> None:
        """Frees the memory of an item."""
        if item.block is not None:
            self._free.append(self._used.pop(item.block))

    def close(self) -> None:
        """Gives all memory back."""
        for block in (*self._free, *self._used.values()):
            block.close()
            block.unlink()

    def _take(self, size: int) -> SharedMemory:
        block = next((each for each in self._free if each.size >= size), None)
        if block is None:
            block = SharedMemory(create=True, size=size)
        else:
            self._free.remove(block)
        self._used[block.name] = block
        return block


def receive(item: SharedItem) -> Any:
    """Returns an item whose arrays are in shared memory; they are gone when it is ``received``."""
    if item.block is None:
        return pickle.loads(item.data)  # noqa: S301 - of this program's own
    memory, start, buffers = _memory(_block(item.block)), 0, []
    for size in item.sizes:
        buffers.append(memory[start : start + size])
        start += _aligned(size)
    return pickle.loads(item.data, buffers=buffers)  # noqa: S301


def _memory(block: SharedMemory) -> memoryview:
    assert block.buf is not None  # noqa: S101 - only that of closed memory is
    return block.buf


def _dump(item: object, take: Callable[[pickle.PickleBuffer], None]) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=take)
    pickler.dispatch_table = {**copyreg.dispatch_table, np.ndarray: _reduce}
    pickler.dump(item)
    return file.getvalue()


def _reduce(array: NDArray[Any]) -> Any:
    """Takes bfloat16, which numpy would write into the pickle, as whole numbers."""
    if array.dtype == _BFLOAT16:
        return _to_bfloat16, (array.view(np.uint16),)
    return array.__reduce_ex__(5)


def _to_bfloat16(numbers: NDArray[np.uint16]) -> NDArray[Any]:
    return numbers.view(_BFLOAT16)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@lru_cache(maxsize=64)
def _block(name: str) -> SharedMemory:
    return SharedMemory(name)
