"""Byte budgets of native codes: the allocation that fills a file of a given size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kronq.errors import ArgumentError
from kronq.model.adapter import Adapter
from kronq.model.bit_packing import CODES_PER_BYTE
from kronq.model.delta import Product
from kronq.model.matrix import Quantized
from kronq.quantization.mixed.bit_allocation import U8, Allocation, SizesByPrice, allocate_bits
from kronq.quantization.mixed.gauge_options import GaugeOption
from kronq.quantization.mixed.layer_batches import LayerBatch
from kronq.quantization.mixed.native_layers import (
    ProductCodes,
)
from kronq.quantization.mixed.nominal_size import (
    channel_count,
    nominal_codes_size,
    nominal_file_size,
)

_TRIES = 8
_NEAR = 16
_NEAR_SHARE = 2**-14
"""Bytes below a file's limit that need not be filled, and as a share of it."""
_SCALE = 1e-9
"""Placeholder for a scale that is not known yet."""
_STEP = 0.001234
"""Placeholder for a step, with as many characters as most have in a manifest."""

MeasureSize = Callable[[Sequence[Allocation]], int]
"""Returns the bytes of the file with the allocated widths."""


@dataclass(frozen=True)
class ByteBudget:
    """Bytes that native codes may take.

    Attributes:
        codes: All codes, scales and widths.
        file: The whole file, header included; infinite where only the codes are limited.
    """

    codes: int
    file: float


def byte_budget(
    adapter: Adapter, empty: Adapter, empty_size: int, bits: float, size: int | None
) -> ByteBudget:
    """Returns the budget of ``size`` bytes, or of the file that ``bits`` stand for (nominal_size).

    Where a header weighs more than that file leaves, the codes still have their ``bits``.

    Args:
        adapter: As it was trained.
        empty: The adapter with placeholder codes of width 0.
        empty_size: Bytes of its file.
        bits: Bits of a code.
        size: Bytes of the file; None for the size that ``bits`` gives.
    """
    file = nominal_file_size(adapter, bits) if size is None else size
    codes = file - (empty_size - _padding(empty))
    at_least = nominal_codes_size(adapter, bits)
    if size is None and codes < at_least:
        return ByteBudget(at_least, math.inf)
    return ByteBudget(codes, float(file))


def fill_budget(
    options: Sequence[Sequence[GaugeOption]],
    budget: ByteBudget,
    measure_size: MeasureSize,
) -> list[Allocation]:
    """Finds the allocation of least error that fills the file.

    The header depends on the widths a little, so the bytes left for codes are corrected by the
    sizes of the files that were tried.

    Args:
        options: Gauge options of each batch.
        budget: The bytes.
        measure_size: Allocations → bytes of the file.

    Raises:
        ArgumentError: The budget has no room for any codes.
    """
    best: list[Allocation] | None = None
    codes = budget.codes
    sizes = SizesByPrice(options)
    for _ in range(_TRIES):
        if codes < 0:
            break
        allocations = allocate_bits(options, codes, sizes)
        excess = measure_size(allocations) - budget.file
        if excess <= 0:
            best = allocations
            if excess > -max(_NEAR, budget.file * _NEAR_SHARE):
                break
        if math.isinf(budget.file):
            break
        codes -= int(excess) + _NEAR // 2
    if best is None:
        raise ArgumentError(
            "the size is too small for native codes",
            found=f"{budget.file:,.0f} bytes",
            expected=f"at least {budget.file - codes:,.0f}",
            hint="compact codes need fewer",
        )
    return best


def placeholder_codes(batches: Sequence[LayerBatch]) -> dict[tuple[str, str], ProductCodes]:
    """Returns codes of width 0 for every product."""
    return {
        (name, batch.role): codes[layer % len(codes)]
        for batch in batches
        for codes in [_placeholders(batch.products[0], batch.one_step)]
        for layer, name in enumerate(batch.names)
    }


def _placeholders(product: Product, one_step: bool) -> list[ProductCodes]:
    """Returns codes of width 0; several with a step, which differs from layer to layer."""
    channels = channel_count(product)
    widths = (np.zeros(channels, dtype=np.uint8),) * len(product.matrices)
    codes = tuple(np.broadcast_to(np.int8(0), m.shape) for m in product.matrices)
    clipped = (0,) * len(codes)
    if one_step:
        steps = [np.array([_STEP + number * 1e-6]) for number in range(7)]
        return [ProductCodes(codes, widths, step, clipped, True) for step in steps]
    return [ProductCodes(codes, widths, np.full(channels, _SCALE), clipped)]


def widths_by_matrix(
    batches: Sequence[LayerBatch], allocations: Sequence[Allocation]
) -> dict[tuple[str, str], U8]:
    """Returns the allocated widths by layer and role of the matrix in the file."""
    roles = {"A": ("A", "A2"), "B": ("B1", "B2")}
    return {
        (name, role): widths[layer]
        for batch, allocation in zip(batches, allocations, strict=True)
        for role, widths in zip(roles[batch.role], allocation.widths, strict=False)
        for layer, name in enumerate(batch.names)
    }


def _padding(empty: Adapter) -> int:
    """Bytes of padding in a file of codes of width 0; rounded down."""
    codes = [m for d in empty.values() for m in d.matrices if isinstance(m, Quantized)]
    return sum(m.codes.size for m in codes if m.widths is not None) // CODES_PER_BYTE
