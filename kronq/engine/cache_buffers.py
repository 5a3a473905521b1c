"""The KV cache of all rows: one buffer a layer, bound in place as past and as present."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import KronqError, UnsupportedError
from kronq.genai.token_inputs import DTYPES, empty_cache_shape
from kronq.onnx.model_files import ModelFiles

if TYPE_CHECKING:
    import onnxruntime as ort

PAST, PRESENT = "past_key_values.", "present."


class CacheBuffers:
    """Buffers [rows, heads, context, head size] of keys and values, one of each a layer.

    Memory is taken when a row first reaches a place: the system gives pages on first use.

    Args:
        inputs: The model's inputs.
        files: Its files.
        rows: Number of rows.
        context: Tokens that a row has room for.

    Raises:
        UnsupportedError: A cache has a type that numpy lacks.
        KronqError: The system has not that much memory.
    """

    def __init__(
        self, inputs: Sequence[ort.NodeArg], files: ModelFiles, rows: int, context: int
    ) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}
        for node in inputs:
            if not node.name.startswith(PAST):
                continue
            if node.type not in DTYPES:
                raise UnsupportedError(
                    "a KV cache of this type", path=files.model, found=node.type, expected="float"
                )
            _, heads, _, size = empty_cache_shape(node.shape, rows, files, node.name)
            shape = (rows, heads, context, size)
            try:
                self._buffers[node.name] = np.zeros(shape, DTYPES[node.type])
            except MemoryError:
                raise KronqError(
                    "no memory for the KV cache",
                    found=f"{rows} rows of {context} tokens",
                    hint="fewer {rows}, or a shorter {context}",
                ) from None

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one row takes."""
        return sum(b[0, :, 0].nbytes for b in self._buffers.values())

    def bind(self, binding: ort.IOBinding, first: int, count: int) -> None:
        """Binds a range of rows as past and, in the same place, as present."""
        for name, buffer in self._buffers.items():
            rows = buffer[first : first + count]
            place = ("cpu", 0, rows.dtype.type, list(rows.shape), rows.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(PRESENT + name.removeprefix(PAST), *place)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a row to another row."""
        for buffer in self._buffers.values():
            buffer[target, :, :tokens] = buffer[source, :, :tokens]
