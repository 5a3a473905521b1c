"""Where everything lies in the record of an adapter.

A record holds one adapter for the compiled operators: as their one input (``kronq.adapter``), or
anywhere in a pool of records. Layers are found by the hash of their name, so a record does not
depend on the graph that reads it. Integer codes have the width of the widest ones in the packed
file, or a wider one where that takes no more words; nothing is rounded again. Little-endian::

    byte     8  "kronqrec"
    uint32      1, the version of this layout
    uint32      number of layers
    uint64      size of the record in bytes, a multiple of 64
    uint64      tag, which says whose record this is in a pool; 0 outside of one
    zeros up to byte 64
    directory, by ascending id; of each layer:
        uint64  its id: BLAKE2b of its name in UTF-8, of 8 bytes
        uint64  offset of its part from the record's first byte, a multiple of 64
    zeros up to a multiple of 64
    the part of each layer, in any order:
        uint32  a_out, a_in, b_out, b_in, rank
        uint8   type of B1's numbers, type of B2's numbers
        zeros up to byte 32 of the part
        float32 scale of each component, then zeros: R numbers, R = rank rounded up to 8
        float32 A [a_out, a_in], the adapter's scale included; zeros up to a multiple of 32 bytes
        uint32  B2ᵀ [b_in, R] as words
        uint32  B1ᵀ [rank, N] as words, N = b_out rounded up to 8
        zeros up to a multiple of 64

    y [a_out, b_out] += A · (x [a_in, b_in] · B2ᵀ · diag(scale)) · B1ᵀ

A word holds as many rows of one column as fit into 32 bits, the first row in the lowest bits; so a
matrix [rows, columns] is words [rows / rows in a word, rounded up, columns]. Rows and columns that
are not there are zeros.

=====  =============  ===================================
type   rows a word    number
=====  =============  ===================================
2 … 8  32 // type     integer of so many bits, two's complement
16     2              float16
17     2              bfloat16
32     1              float32
=====  =============  ===================================

No record at all, which is the base alone, is a row of 8 zero bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b

import numpy as np

MAGIC = b"kronqrec"
VERSION = 1
LINE = 64
"""Bytes of a cache line: records and the parts of layers begin on one."""
LANES = 8
"""Floats that the operator multiplies at once: columns come padded to a multiple of it."""

FLOAT16, BFLOAT16, FLOAT32 = 16, 17, 32
"""Types of numbers that are no codes; a code's type is its number of bits."""
FLOATS = {FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT32: "float32"}

HEAD = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("layers", "<u4"),
        ("size", "<u8"),
        ("tag", "<u8"),
        ("zeros", "V32"),
    ]
)
ENTRY = np.dtype([("layer", "<u8"), ("offset", "<u8")])
PART = np.dtype(
    [
        *((size, "<u4") for size in ("a_out", "a_in", "b_out", "b_in", "rank")),
        ("b1", "u1"),
        ("b2", "u1"),
        ("zeros", "V10"),
    ]
)

NO_ADAPTER = np.zeros(8, dtype=np.uint8)
"""No record, which is exactly no adapter."""


@dataclass(frozen=True)
class PartLayout:
    """Sizes of one layer's part, and where its arrays begin in it.

    Attributes:
        a: (a_out, a_in).
        b: (b_out, b_in).
        rank: Components.
        b1: Type of B1's numbers.
        b2: Type of B2's numbers.
    """

    a: tuple[int, int]
    b: tuple[int, int]
    rank: int
    b1: int
    b2: int

    @cached_property
    def lanes(self) -> int:
        """The rank, rounded up: R."""
        return round_up(self.rank, LANES)

    @cached_property
    def columns(self) -> int:
        """b_out, rounded up: N."""
        return round_up(self.b[0], LANES)

    @cached_property
    def b2_words(self) -> tuple[int, int]:
        return -(-self.b[1] // rows_in_word(self.b2)), self.lanes

    @cached_property
    def b1_words(self) -> tuple[int, int]:
        return -(-self.rank // rows_in_word(self.b1)), self.columns

    @cached_property
    def a_at(self) -> int:
        return PART.itemsize + 4 * self.lanes

    @cached_property
    def b2_at(self) -> int:
        return self.a_at + round_up(4 * self.a[0] * self.a[1], 4 * LANES)

    @cached_property
    def b1_at(self) -> int:
        return self.b2_at + 4 * self.b2_words[0] * self.b2_words[1]

    @cached_property
    def size(self) -> int:
        """Bytes of the part."""
        return round_up(self.b1_at + 4 * self.b1_words[0] * self.b1_words[1])


@lru_cache(maxsize=2**14)
def layer_id(name: str) -> int:
    """Returns the id by which a layer is found in a record: 64 bits of its name's BLAKE2b."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def rows_in_word(number_type: int) -> int:
    """Returns how many rows of a column one word holds."""
    return 2 if number_type == BFLOAT16 else 32 // number_type


@lru_cache(maxsize=2**10)
def part_layout(a: tuple[int, int], b: tuple[int, int], rank: int, b1: int, b2: int) -> PartLayout:
    """Returns a ``PartLayout``, the same one for the same sizes: most adapters share theirs."""
    return PartLayout(a, b, rank, b1, b2)


@lru_cache(maxsize=2**10)
def widest_type(number_type: int, rows: int) -> int:
    """Returns the widest type of codes that takes as many words: bytes are quick to pack."""
    if number_type in FLOATS or number_type == BFLOAT16:
        return number_type
    words = -(-rows // rows_in_word(number_type))
    return max(t for t in range(number_type, 9) if -(-rows // rows_in_word(t)) == words)


def round_up(size: int, multiple: int = LINE) -> int:
    """Returns the next multiple."""
    return -(-size // multiple) * multiple
