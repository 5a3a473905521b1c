"""Errors of a batch of layers in a gauge, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronq.model.delta import F64
from kronq.quantization.mixed.channel_errors import ChannelErrors


@dataclass(frozen=True, eq=False)
class GaugeOption:
    """A gauge in which a batch of layers can be coded.

    Attributes:
        matrices: One whole matrix, or two factors whose channels are present or absent together.
        absent: [layers, channels]: error where the channel is left out.
    """

    matrices: tuple[ChannelErrors, ...]
    absent: F64


def concatenate_options(parts: Sequence[GaugeOption]) -> GaugeOption:
    """Joins one gauge option of several parts of a batch."""
    matrices = [
        ChannelErrors(np.concatenate([matrix.errors for matrix in each]), each[0].nbytes)
        for each in zip(*(part.matrices for part in parts), strict=True)
    ]
    return GaugeOption(tuple(matrices), np.concatenate([part.absent for part in parts]))
