"""The weights of a GGUF file in its own blocks: codes, a scale and perhaps an offset for each.

Of the formats that are read here every block says w = scale·(code − zero) + offset, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_HALF = np.dtype("<f2")


@dataclass(frozen=True)
class Blocks:
    """A matrix W [d_out, d_in] in blocks along its rows.

    Attributes:
        bits: 4 or 8.
        codes: Unsigned, uint8 [d_out, d_in / size, size]; ``zero`` is the middle, 8 or 128.
        scale: float32 [d_out, d_in / size].
        offset: What all numbers of a block are higher by, float32 like ``scale``; or None.
    """

    bits: int
    codes: Array
    scale: Array
    offset: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        d_out, blocks, size = self.codes.shape
        return d_out, blocks * size

    @property
    def size(self) -> int:
        return int(self.codes.shape[2])

    @property
    def zero(self) -> int:
        return 1 << (self.bits - 1)

    def rows(self, order: Array) -> Blocks:
        """The rows in another order."""
        offset = None if self.offset is None else self.offset[order]
        return replace(self, codes=self.codes[order], scale=self.scale[order], offset=offset)


def q4_0(raw: Array) -> Blocks:
    """A block of 18 bytes: d float16, 16 bytes of codes; w = d·(q − 8)."""
    return Blocks(4, _nibbles(raw[..., 2:]), _floats(raw[..., :2]))


def q4_1(raw: Array) -> Blocks:
    """A block of 20 bytes: d and m float16, 16 bytes of codes; w = d·q + m."""
    scale = _floats(raw[..., :2])
    return Blocks(4, _nibbles(raw[..., 4:]), scale, _floats(raw[..., 2:4]) + 8 * scale)


def q8_0(raw: Array) -> Blocks:
    """A block of 34 bytes: d float16, 32 signed bytes; w = d·q."""
    return Blocks(8, raw[..., 2:] ^ np.uint8(0x80), _floats(raw[..., :2]))


def halves(blocks: Blocks) -> Blocks:
    """8-bit blocks as 4-bit ones of a matrix twice as wide, for the input [x, x].

    With code = 16·high + low: w = 16·scale·(high − 8) + scale·(low − 8) + 8·scale. The offset is
    for x once, not twice.
    """
    codes = np.concatenate([blocks.codes >> 4, blocks.codes & 15], axis=1)
    scale = np.concatenate([16 * blocks.scale, blocks.scale], axis=1)
    return Blocks(4, codes, scale, 8 * blocks.scale)


READERS: Mapping[str, Callable[[Array], Blocks]] = {"Q4_0": q4_0, "Q4_1": q4_1, "Q8_0": q8_0}
"""By the name of the type; the layouts are ggml-common.h's block_q4_0, block_q4_1, block_q8_0."""


def read_blocks(tensor: Any) -> Blocks | None:
    """The blocks of a tensor that ``gguf.GGUFReader`` lists; None for a type that has no reader."""
    kind = tensor.tensor_type
    if kind.name not in READERS or len(tensor.shape) != 2:
        return None
    from gguf.constants import GGML_QUANT_SIZES

    _, size = GGML_QUANT_SIZES[kind]
    d_out = int(tensor.shape[1])
    return READERS[kind.name](np.asarray(tensor.data).reshape(d_out, -1, size))


def head_order(d_out: int, heads: int) -> Array:
    """Where each row of a q or k weight stands in a GGUF file of the llama architecture.

    llama.cpp rotates neighbours, Hugging Face the two halves of a head; convert_hf_to_gguf.py
    (LlamaModel.permute) reorders the rows of each head for it, and this takes that back.
    """
    return np.arange(d_out).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def open_gguf(path: Path) -> Any:
    """``gguf.GGUFReader`` of a file; its tensors stay memory-mapped."""
    from gguf import GGUFReader

    return GGUFReader(path)


def _floats(raw: Array) -> Array:
    return np.ascontiguousarray(raw).view(_HALF)[..., 0].astype(np.float32)


def _nibbles(raw: Array) -> Array:
    """The first half of a block is in the low nibbles, the second in the high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)
