"""Weights of a GGUF file in its own blocks: codes, a scale and perhaps an offset for each block.

In the formats that are read here the weights are w = scale·(code − zero) + offset, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.bit_packing import split_nibbles

Array = NDArray[Any]

_HALF = np.dtype("<f2")


@dataclass(frozen=True)
class Blocks:
    """Matrix W [d_out, d_in] in blocks along its rows.

    Attributes:
        bits: Width of a code, 4 or 8.
        codes: uint8 [d_out, d_in / size, size].
        scale: Quantization scales, float32 [d_out, d_in / size].
        offset: Sum added to every weight of a block, of the shape of ``scale``; None for 0.
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
        """Weights of a block."""
        return int(self.codes.shape[2])

    @property
    def zero(self) -> int:
        """Code of the weight 0 (before the offset): 8 or 128."""
        return 1 << (self.bits - 1)

    def reorder_rows(self, order: Array) -> Blocks:
        """Returns the rows in another order."""
        offset = None if self.offset is None else self.offset[order]
        return replace(self, codes=self.codes[order], scale=self.scale[order], offset=offset)


def read_q4_0(raw: Array) -> Blocks:
    """Reads blocks of 18 bytes: d float16, 16 bytes of codes; w = d·(q − 8)."""
    return Blocks(4, _read_nibbles(raw[..., 2:]), _read_float16(raw[..., :2]))


def read_q4_1(raw: Array) -> Blocks:
    """Reads blocks of 20 bytes: d and m float16, 16 bytes of codes; w = d·q + m."""
    scale = _read_float16(raw[..., :2])
    return Blocks(4, _read_nibbles(raw[..., 4:]), scale, _read_float16(raw[..., 2:4]) + 8 * scale)


def read_q8_0(raw: Array) -> Blocks:
    """Reads blocks of 34 bytes: d float16, 32 signed bytes; w = d·q."""
    return Blocks(8, raw[..., 2:] ^ np.uint8(0x80), _read_float16(raw[..., :2]))


def split_to_4_bits(blocks: Blocks) -> Blocks:
    """Splits 8-bit blocks into 4-bit blocks of a matrix twice as wide, for the input [x, x].

    With code = 16·high + low: w = 16·scale·(high − 8) + scale·(low − 8) + 8·scale. The offset is
    that of one x, not of both.
    """
    low, high = split_nibbles(blocks.codes)
    codes = np.concatenate([high, low], axis=1)
    scale = np.concatenate([16 * blocks.scale, blocks.scale], axis=1)
    return Blocks(4, codes, scale, 8 * blocks.scale)


READERS: Mapping[str, Callable[[Array], Blocks]] = {
    "Q4_0": read_q4_0,
    "Q4_1": read_q4_1,
    "Q8_0": read_q8_0,
}
"""Type → its reader; the layouts are ggml-common.h's block_q4_0, block_q4_1, block_q8_0."""


def read_blocks(tensor: Any) -> Blocks | None:
    """Reads a tensor of ``gguf.GGUFReader``; returns None for a type that has no reader."""
    kind = tensor.tensor_type
    if kind.name not in READERS or len(tensor.shape) != 2:
        return None
    from gguf.constants import GGML_QUANT_SIZES

    _, size = GGML_QUANT_SIZES[kind]
    d_out = int(tensor.shape[1])
    return READERS[kind.name](np.asarray(tensor.data).reshape(d_out, -1, size))


def head_order(d_out: int, heads: int) -> Array:
    """Returns the index of each row of a q or k weight in a GGUF file of the llama architecture.

    llama.cpp rotates neighbouring rows, Hugging Face the two halves of a head, so
    convert_hf_to_gguf.py (LlamaModel.permute) reorders the rows of each head; this undoes it.
    """
    return np.arange(d_out).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _read_float16(raw: Array) -> Array:
    return np.ascontiguousarray(raw).view(_HALF)[..., 0].astype(np.float32)


def _read_nibbles(raw: Array) -> Array:
    """Unpacks a block: its first half is in the low nibbles, the second in the high ones."""
    return np.concatenate(split_nibbles(raw), axis=-1)
