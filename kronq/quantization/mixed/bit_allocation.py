"""Bit allocation: the width of every channel, for the least error in a number of bytes.

The error of each channel is measured at each width. Given a price λ of a byte, each channel takes
the width of least error + λ · bytes (Shoham and Gersho, IEEE Trans. ASSP 36, 1988), and λ is
bisected until the bytes fit. Components of little energy get fewer bits, or none: reverse
water-filling on measured errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.model.bit_packing import WIDTHS
from kronq.quantization.mixed.channel_errors import CODE_WIDTHS
from kronq.quantization.mixed.gauge_options import GaugeOption
from kronq.quantization.mixed.layer_sizes import I64, join_layers

U8 = NDArray[np.uint8]

_BISECTIONS = 40


@dataclass(frozen=True, eq=False)
class Allocation:
    """Gauge of every layer and width of every channel of a batch.

    Attributes:
        gauge: [layers]: index into the batch's gauge options.
        widths: [layers, channels] for each matrix.
    """

    gauge: NDArray[np.intp]
    widths: tuple[U8, ...]


def allocate_bits(
    batches: Sequence[Sequence[GaugeOption]], nbytes: int, sizes: SizesByPrice | None = None
) -> list[Allocation]:
    """Finds the gauges and widths of least total error.

    Args:
        batches: Gauge options of each batch of layers.
        nbytes: Budget for all codes and scales together.
        sizes: What earlier calls with these batches have found.

    Returns:
        The allocation of each batch.
    """
    sizes = SizesByPrice(batches) if sizes is None else sizes
    low, high = sizes.prices
    sizes.measure(high, low, high)
    if sizes.measure(low, low, high) <= nbytes:
        high = low
    for _ in range(_BISECTIONS):
        if not sizes.unequal_layers(low, high):
            break
        middle = (low + high) / 2
        if sizes.measure(middle, low, high) > nbytes:
            low = middle
        else:
            high = middle
    priced = [_allocate_at_price(options, 2.0**high) for options in batches]
    allocations = [allocation for allocation, _ in priced]
    remaining = nbytes - sum(int(layers.sum()) for _, layers in priced)
    _spend_remaining(batches, allocations, remaining)
    return allocations


class SizesByPrice:
    """Bytes of all layers by the price of a byte.

    The dearer a byte, the fewer a layer takes. So a layer that takes as many at both ends of an
    interval takes that many within it, and only the others are measured there.

    Args:
        batches: Gauge options of each batch of layers.

    Attributes:
        prices: Log2 of a price at which all layers take all they can, and of one at which none
            takes anything.
    """

    def __init__(self, batches: Sequence[Sequence[GaugeOption]]) -> None:
        self._batches = join_layers(batches)
        self._by_layer: dict[float, list[I64]] = {}
        self.prices = _price_range(batches)

    def unequal_layers(self, low: float, high: float) -> int:
        """Returns how many layers may take other bytes at one price than at another."""
        ends = zip(self._by_layer[low], self._by_layer[high], strict=True)
        return sum(int(np.count_nonzero(a != b)) for a, b in ends)

    def measure(self, price: float, low: float, high: float) -> int:
        """Returns the bytes at a price between two others; each is the log2 of one."""
        if price not in self._by_layer:
            unknown = [None] * len(self._batches)
            ends = self._by_layer.get(low, unknown), self._by_layer.get(high, unknown)
            self._by_layer[price] = [
                layers.sizes(2.0**price, least, most)
                for layers, most, least in zip(self._batches, *ends, strict=True)
            ]
        return sum(int(layers.sum()) for layers in self._by_layer[price])


def _price_range(batches: Sequence[Sequence[GaugeOption]]) -> tuple[float, float]:
    least, most = math.inf, 0.0
    for option in (option for options in batches for option in options):
        for matrix in option.matrices:
            saved = matrix.errors[..., :-1] - matrix.errors[..., 1:]
            saved /= np.maximum(np.diff(matrix.nbytes), 1)
            least = min(least, float(saved.min(where=saved > 0, initial=math.inf)))
            most = max(most, float(option.absent.max(initial=0.0)) / max(1, int(matrix.nbytes[0])))
    lowest = math.log2(least) - 1 if 0 < least < math.inf else -400.0
    highest = math.log2(most) + 1 if 0 < most < math.inf else 400.0
    return lowest, max(lowest, highest) + 1


def _allocate_at_price(options: Sequence[GaugeOption], price: float) -> tuple[Allocation, I64]:
    """Minimizes error + price · bytes for every layer; returns each layer's bytes too."""
    width_indices, costs = [], []
    for option in options:
        priced = [matrix.errors + price * matrix.nbytes for matrix in option.matrices]
        best_width = [each.argmin(axis=2) for each in priced]
        present = sum(each.min(axis=2) for each in priced)
        costs.append(np.minimum(present, option.absent).cumsum(axis=1)[:, -1])
        width_indices.append([np.where(present < option.absent, 1 + w, 0) for w in best_width])
    gauge = np.argmin(costs, axis=0)
    layers = np.arange(len(gauge))
    chosen = [np.stack(each)[gauge, layers] for each in zip(*width_indices, strict=True)]
    by_matrix = [
        np.where(index > 0, matrix.nbytes[index - 1], 0).sum(axis=1)
        for matrix, index in zip(options[0].matrices, chosen, strict=True)
    ]
    widths = tuple(np.array(WIDTHS, dtype=np.uint8)[index] for index in chosen)
    return Allocation(gauge, widths), np.sum(by_matrix, axis=0)


def _spend_remaining(
    batches: Sequence[Sequence[GaugeOption]], allocations: list[Allocation], remaining: int
) -> None:
    """Widens channels by one bit, in place, in order of error saved per byte."""
    gains, prices, places = [], [], []
    for batch, (options, allocation) in enumerate(zip(batches, allocations, strict=True)):
        layers = np.arange(len(allocation.gauge))
        for matrix, widths in enumerate(allocation.widths):
            index = widths.astype(np.intp) - 2
            wider = np.minimum(index + 1, len(CODE_WIDTHS) - 1)
            errors = np.stack([o.matrices[matrix].errors for o in options])
            errors = errors[allocation.gauge, layers]
            nbytes = options[0].matrices[matrix].nbytes
            saved = np.take_along_axis(errors, np.maximum(index, 0)[..., None], 2)[..., 0]
            saved -= np.take_along_axis(errors, wider[..., None], 2)[..., 0]
            extra = nbytes[wider] - nbytes[np.maximum(index, 0)]
            can_widen = np.nonzero((index >= 0) & (extra > 0) & (saved > 0))
            gains.append(saved[can_widen] / extra[can_widen])
            prices.append(extra[can_widen])
            places.append((batch, matrix, can_widen))
    price = np.concatenate(prices)
    order = np.argsort(-np.concatenate(gains), kind="stable")
    least = int(price.min(initial=remaining + 1))
    starts = np.cumsum([0, *map(len, prices)])
    for offer in order[price[order] <= remaining]:
        if remaining < least:
            break
        if price[offer] <= remaining:
            place = int(np.searchsorted(starts, offer, side="right")) - 1
            batch, matrix, channels = places[place]
            layer, channel = (each[offer - starts[place]] for each in channels)
            allocations[batch].widths[matrix][layer, channel] += 1
            remaining -= int(price[offer])
