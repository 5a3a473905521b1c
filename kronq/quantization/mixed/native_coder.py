"""Coding of layers that share one byte budget: allocation of widths, then codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kronq.io.overflow import Overflow
from kronq.io.progress import Progress
from kronq.io.threads import map_large
from kronq.model.adapter import Adapter, Recipe
from kronq.model.second_moments import SecondMoments
from kronq.quantization.file_size import file_size, file_size_by_widths
from kronq.quantization.mixed.bit_allocation import U8, Allocation
from kronq.quantization.mixed.factor_pairs import BatchCodes, quantize_factor_pairs
from kronq.quantization.mixed.gauge_options import GaugeOption, concatenate_options
from kronq.quantization.mixed.gauges import (
    FactorPair,
    gauge_options,
    gauges_of,
    select_gauge,
)
from kronq.quantization.mixed.layer_batches import (
    LayerBatch,
    batch_layers,
    error_metrics,
    split_by_memory,
)
from kronq.quantization.mixed.native_layers import (
    FINE,
    CodesByLayer,
    ProductCodes,
    StoredA,
    build_layers,
    store_small_a,
)
from kronq.quantization.mixed.size_budget import (
    byte_budget,
    fill_budget,
    placeholder_codes,
    widths_by_matrix,
)
from kronq.quantization.mixed.whole_matrices import (
    one_step_options,
    quantize_to_one_step,
    quantize_whole_matrices,
    whole_matrix_option,
)

_MOST_BITS = 16.0
_TRIES = 8
_KEPT = 2**24
"""Values of a batch up to which its gauges are kept from measuring to coding."""


def native_recipe(adapter: Adapter, bits: float) -> Recipe:
    """Returns the recipe of native codes of ``bits`` bits."""
    a_bits = 16 if bits > FINE or adapter.family == "lora" else 8
    return Recipe("native", bits, a_bits=a_bits)


@dataclass(frozen=True, eq=False)
class MeasuredBatch:
    """A batch whose channels' errors are known.

    Attributes:
        batch: The layers.
        parts: Those that are worked on at once.
        gauges: Of each part; none of whole matrices, and of large batches, which have them
            computed again.
        options: Errors of the whole batch in each gauge.
    """

    batch: LayerBatch
    parts: list[slice]
    gauges: list[list[FactorPair]]
    options: list[GaugeOption]


@dataclass(frozen=True, eq=False)
class NativeCoder:
    """Layers that share one byte budget.

    Attributes:
        adapter: As it was trained.
        size: Bytes of the file; None for the size that the recipe's bits give.
        moments: Second moments of every layer, or None.
        recipe: Of the quantized adapter.
        batches: The layers by shape.
        small_a: Every A without codes of its own widths, as it is stored.
    """

    adapter: Adapter
    size: int | None
    moments: SecondMoments | None
    recipe: Recipe
    batches: list[LayerBatch]
    small_a: dict[str, StoredA]

    @classmethod
    def create(
        cls, adapter: Adapter, bits: float, size: int | None, moments: SecondMoments | None
    ) -> NativeCoder:
        if size is not None:
            bits = min(_MOST_BITS, round(8 * size / adapter.parameters, 4))
        small_a = store_small_a(adapter, float16=bits > FINE)
        recipe = native_recipe(adapter, bits)
        return cls(adapter, size, moments, recipe, batch_layers(adapter, bits), small_a)

    def quantize(self, progress: Progress | None) -> Adapter:
        """Allocates the budget, and codes all layers in it."""
        empty = self.build(placeholder_codes(self.batches))
        sizes = file_size_by_widths(empty)
        budget = byte_budget(self.adapter, empty, sizes.nbytes, self.recipe.bits, self.size)
        measured = [self.measure_batch(batch) for batch in self.batches]
        options = [each.options for each in measured]
        target = budget
        for _ in range(_TRIES):
            allocations = fill_budget(
                options, target, lambda each: sizes.measure(widths_by_matrix(self.batches, each))
            )
            codes: dict[tuple[str, str], ProductCodes] = {}
            overflow = Overflow()
            for batch, each in zip(measured, allocations, strict=True):
                for part in self.quantize_batch(batch, each):
                    codes |= {key: _held(each, overflow) for key, each in part.items()}
                    if progress is not None:
                        progress(len({name for name, _ in codes}), len(self.adapter))
            quantized = self.build(codes)
            excess = file_size(quantized) - budget.file
            if excess <= 0:
                break
            target = replace(target, file=target.file - excess)
        return quantized

    def build(self, codes: CodesByLayer) -> Adapter:
        layers = build_layers(self.adapter, self.small_a, codes)
        return replace(self.adapter, layers=layers, recipe=self.recipe)

    def measure_batch(self, batch: LayerBatch) -> MeasuredBatch:
        """Measures the errors of a batch's channels at every width."""
        parts = split_by_memory(batch, self.moments)
        keep = batch.values * len(batch.names) <= _KEPT

        def measure(layers: slice) -> tuple[list[FactorPair], list[GaugeOption]]:
            part = batch.load(layers)
            left, right = error_metrics(batch, layers, self.adapter, self.moments)
            if batch.one_step:
                return [], one_step_options(part.left, left, right)
            if part.right is None:
                return [], [whole_matrix_option(part.left, left, right)]
            gauges = gauges_of(FactorPair(part.left, part.right), left, right)
            return gauges if keep else [], gauge_options(gauges, left, right)

        measured = map_large(measure, parts, values=self.values_at_once(batch, parts))
        gauges, options = zip(*measured, strict=True)
        together = [concatenate_options(each) for each in zip(*options, strict=True)]
        return MeasuredBatch(batch, parts, list(gauges), together)

    def quantize_batch(
        self, measured: MeasuredBatch, allocation: Allocation
    ) -> Iterator[dict[tuple[str, str], ProductCodes]]:
        """Codes a batch with the allocated gauges and widths, part by part."""
        batch = measured.batch

        def quantize(index: int) -> dict[tuple[str, str], ProductCodes]:
            layers = measured.parts[index]
            gauge = allocation.gauge[layers]
            left, right = error_metrics(batch, layers, self.adapter, self.moments)
            widths = tuple(each[layers] for each in allocation.widths)
            gauges = measured.gauges[index]
            part = None if gauges else batch.load(layers)
            if part is not None and part.right is not None:
                gauges = gauges_of(FactorPair(part.left, part.right), left, right)
            if part is None or part.right is not None:
                coded = quantize_factor_pairs(select_gauge(gauges, gauge), widths, left, right)
            elif batch.one_step:
                coded = quantize_to_one_step(part.left, widths[0], gauge, left, right)
            else:
                coded = quantize_whole_matrices(part.left, widths[0], left, right)
            keys = [(name, batch.role) for name in batch.names[layers]]
            return dict(zip(keys, _by_layer(coded, widths, batch.one_step), strict=True))

        values = self.values_at_once(batch, measured.parts)
        return map_large(quantize, range(len(measured.parts)), values=values)

    def values_at_once(self, batch: LayerBatch, parts: list[slice]) -> int:
        """Returns the values of a part; 0 where second moments fill the memory that is meant."""
        return 0 if self.moments is not None else batch.values * (parts[0].stop - parts[0].start)


def _held(coded: ProductCodes, overflow: Overflow) -> ProductCodes:
    """Returns the codes in memory, or in a file if there are too many."""
    codes = tuple(overflow.hold(np.asarray(each)) for each in coded.codes)
    return ProductCodes(codes, coded.widths, coded.scale, coded.clipped, coded.one_step)


def _by_layer(coded: BatchCodes, widths: tuple[U8, ...], one_step: bool) -> list[ProductCodes]:
    """Returns the codes of each layer as they are stored: of two factors, the left is turned."""
    matrices = [each.astype(np.int8) for each in coded.codes]
    if len(matrices) == 2:
        matrices[0] = matrices[0].transpose(0, 2, 1)
    return [
        ProductCodes(
            tuple(each[layer] for each in matrices),
            tuple(each[layer] for each in widths),
            scale,
            tuple(int(each[layer]) for each in coded.clipped),
            one_step,
        )
        for layer, scale in enumerate(coded.scale)
    ]
