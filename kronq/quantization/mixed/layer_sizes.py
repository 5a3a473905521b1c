"""Bytes that layers take at a price of a byte; in C where there is a compiler, to the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.compiled import call, library
from kronq.model.delta import F64
from kronq.quantization.mixed.gauge_options import GaugeOption

I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerErrors:
    """Errors of layers of as many gauges, matrices and channels.

    Attributes:
        errors: [gauges, matrices, layers, channels, widths].
        absent: [gauges, layers, channels]: error where a channel is left out.
        nbytes: [matrices, layers, widths]: bytes of a channel.
    """

    errors: F64
    absent: F64
    nbytes: I64

    def sizes(self, price: float, least: I64 | None = None, most: I64 | None = None) -> I64:
        """Returns the bytes of each layer where error + price · bytes is least.

        Args:
            price: Of a byte.
            least: Bytes at a higher price; with ``most`` the layers where both are the same need no
                search.
            most: Bytes at a lower price.
        """
        layers = self.errors.shape[2]
        if least is None or most is None:
            least, most = np.zeros(layers, dtype=np.int64), np.ones(layers, dtype=np.int64)
        functions = library()
        if functions is None:
            return self._search(price, least, least != most)
        sizes = np.empty_like(least)
        given = self.errors, self.absent, self.nbytes, np.array([price]), least, most, sizes
        call(functions, "kronq_sizes_at_price", *self.errors.shape, *given)
        return sizes

    def _search(self, price: float, least: I64, unequal: NDArray[np.bool_]) -> I64:
        priced = self.errors[:, :, unequal] + price * self.nbytes[:, unequal, None]
        widths = priced.argmin(axis=4)
        present, absent = priced.min(axis=4).sum(axis=1), self.absent[:, unequal]
        # A running sum, unlike a sum, has one order of its terms.
        costs = np.minimum(present, absent).cumsum(axis=2)[..., -1]
        nbytes = self.nbytes[None, :, unequal, None]
        taken = np.take_along_axis(nbytes, widths[..., None], axis=4)[..., 0].sum(axis=1)
        by_gauge = np.where(present < absent, taken, 0).sum(axis=2)
        sizes = least.copy()
        sizes[unequal] = np.take_along_axis(by_gauge, costs.argmin(axis=0)[None], axis=0)[0]
        return sizes


def join_layers(batches: Sequence[Sequence[GaugeOption]]) -> list[LayerErrors]:
    """Joins the layers of batches of as many gauges, matrices and channels.

    Args:
        batches: Gauge options of each batch of layers.
    """
    alike: dict[tuple[int, ...], list[Sequence[GaugeOption]]] = {}
    for options in batches:
        channels = options[0].absent.shape[1]
        alike.setdefault((len(options), len(options[0].matrices), channels), []).append(options)
    return [_join(group) for group in alike.values()]


def _join(batches: Sequence[Sequence[GaugeOption]]) -> LayerErrors:
    errors = [
        np.stack([[matrix.errors for matrix in option.matrices] for option in options])
        for options in batches
    ]
    absent = [np.stack([option.absent for option in options]) for options in batches]
    nbytes = [
        np.repeat([[matrix.nbytes] for matrix in options[0].matrices], len(each[0]), axis=1)
        for options, each in zip(batches, absent, strict=True)
    ]
    return LayerErrors(
        np.concatenate(errors, axis=2),
        np.concatenate(absent, axis=1),
        np.concatenate(nbytes, axis=1),
    )
