"""Coding of layers that share one byte budget: allocation of widths, then codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kronq.io.progress import Progress
from kronq.model.adapter import Adapter, Recipe
from kronq.model.second_moments import SecondMoments
from kronq.quantization.file_size import file_size, file_size_by_widths
from kronq.quantization.mixed.bit_allocation import Allocation, GaugeOption, concatenate_options
from kronq.quantization.mixed.factor_pairs import quantize_factor_pairs
from kronq.quantization.mixed.gauges import (
    FactorPair,
    concatenate_pairs,
    gauge_options,
    select_gauge,
)
from kronq.quantization.mixed.layer_batches import (
    LayerBatch,
    batch_layers,
    error_metrics,
    split_by_memory,
)
from kronq.quantization.mixed.native_layers import (
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
from kronq.quantization.mixed.whole_matrices import quantize_whole_matrices, whole_matrix_option

_FINE = 5.5
"""Bits per weight from which the error of a small A in int8 would show."""
_MOST_BITS = 16.0
_TRIES = 8


def native_recipe(adapter: Adapter, bits: float) -> Recipe:
    """Returns the recipe of native codes of ``bits`` bits."""
    a_bits = 16 if bits > _FINE or adapter.family == "lora" else 8
    return Recipe("native", bits, a_bits=a_bits)


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
        small_a = store_small_a(adapter, float16=bits > _FINE)
        recipe = native_recipe(adapter, bits)
        return cls(adapter, size, moments, recipe, batch_layers(adapter), small_a)

    def quantize(self, progress: Progress | None) -> Adapter:
        """Allocates the budget, and codes all layers in it."""
        empty = self.build(placeholder_codes(self.batches, self.adapter))
        budget = byte_budget(self.adapter, empty, self.recipe.bits, self.size)
        sizes = file_size_by_widths(empty)
        measured = [self.measure_gauges(batch) for batch in self.batches]
        options = [each for _, each in measured]
        target = budget
        for _ in range(_TRIES):
            allocations = fill_budget(
                options, target, lambda each: sizes.measure(widths_by_matrix(self.batches, each))
            )
            codes: dict[tuple[str, str], ProductCodes] = {}
            for batch, (gauges, _), each in zip(self.batches, measured, allocations, strict=True):
                codes |= self.quantize_batch(batch, gauges, each)
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

    def measure_gauges(self, batch: LayerBatch) -> tuple[list[FactorPair], list[GaugeOption]]:
        """Returns the gauges of a batch (none for whole matrices), and their channels' errors."""
        parts: list[tuple[list[FactorPair], list[GaugeOption]]] = []
        for _, part in split_by_memory(batch, self.moments):
            left, right = error_metrics(part, self.adapter, self.moments)
            if part.right is None:
                parts.append(([], [whole_matrix_option(part.left, left, right)]))
            else:
                parts.append(gauge_options(FactorPair(part.left, part.right), left, right))
        gauges, options = zip(*parts, strict=True)
        return (
            [concatenate_pairs(each) for each in zip(*gauges, strict=True)],
            [concatenate_options(each) for each in zip(*options, strict=True)],
        )

    def quantize_batch(
        self, batch: LayerBatch, gauges: list[FactorPair], allocation: Allocation
    ) -> dict[tuple[str, str], ProductCodes]:
        """Codes a batch with the allocated gauges and widths."""
        codes: dict[tuple[str, str], ProductCodes] = {}
        for layers, part in split_by_memory(batch, self.moments):
            left, right = error_metrics(part, self.adapter, self.moments)
            widths = tuple(each[layers] for each in allocation.widths)
            if part.right is None:
                coded = quantize_whole_matrices(part.left, widths[0], left, right)
            else:
                pair = select_gauge(gauges, allocation.gauge, layers)
                coded = quantize_factor_pairs(pair, widths, left, right)
            for i, name in enumerate(part.names):
                codes[name, batch.role] = ProductCodes(
                    tuple(each[i] for each in coded.codes),
                    tuple(each[i] for each in widths),
                    coded.scale[i],
                    tuple(int(each[i]) for each in coded.clipped),
                )
        return codes
