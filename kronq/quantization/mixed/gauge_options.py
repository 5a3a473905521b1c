"""Errors of a batch of layers in a gauge, channel by channel, and such batches joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64
from kronq.quantization.mixed.channel_errors import CODE_WIDTHS, ChannelErrors


@dataclass(frozen=True, eq=False)
class GaugeOption:
    """A gauge in which a batch of layers can be coded.

    Attributes:
        matrices: One whole matrix, or two factors whose channels are present or absent together.
        absent: [layers, channels]: error where the channel is left out.
    """

    matrices: tuple[ChannelErrors, ...]
    absent: F64

    def select(self, layers: NDArray[np.bool_]) -> GaugeOption:
        """Returns the option of some of the layers, whose bytes are their own."""
        matrices = [
            ChannelErrors(each.errors[layers], each.nbytes[layers]) for each in self.matrices
        ]
        return GaugeOption(tuple(matrices), self.absent[layers])

    def with_own_bytes(self) -> GaugeOption:
        """Returns the option with the bytes of each layer, [layers, 1, widths]."""
        shape = len(self.absent), 1, len(CODE_WIDTHS)
        matrices = [
            ChannelErrors(each.errors, np.broadcast_to(each.nbytes, shape))
            for each in self.matrices
        ]
        return GaugeOption(tuple(matrices), self.absent)


def concatenate_options(parts: Sequence[GaugeOption]) -> GaugeOption:
    """Joins one gauge option of several parts of a batch, or of batches with bytes of their own."""
    matrices = []
    for each in zip(*(part.matrices for part in parts), strict=True):
        nbytes = [matrix.nbytes for matrix in each]
        together = nbytes[0] if nbytes[0].ndim == 1 else np.concatenate(nbytes)
        errors = np.concatenate([matrix.errors for matrix in each])
        matrices.append(ChannelErrors(errors, together))
    return GaugeOption(tuple(matrices), np.concatenate([part.absent for part in parts]))


def join_alike(batches: Sequence[Sequence[GaugeOption]]) -> list[list[GaugeOption]]:
    """Joins batches of as many gauges, matrices and channels, so that one pass measures them."""
    alike: dict[tuple[int, ...], list[Sequence[GaugeOption]]] = {}
    for options in batches:
        channels = options[0].absent.shape[1]
        alike.setdefault((len(options), len(options[0].matrices), channels), []).append(options)
    return [
        [
            concatenate_options([option.with_own_bytes() for option in each])
            for each in zip(*group, strict=True)
        ]
        for group in alike.values()
    ]
