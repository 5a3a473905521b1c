"""Which channel gets how many bits: error saved per byte, over the whole adapter at once.

Every channel's error at every width is measured, and with a price λ on a byte each takes the width
of least error + λ · bytes (Shoham and Gersho, IEEE Trans. ASSP 36, 1988); λ is what makes the bytes
fit. A component of little energy ends with fewer bits than others or with none: reverse
water-filling, but with the errors that these codes really make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64
from kronq.model.matrix import F32, WIDTHS, packed_size
from kronq.quantization.grid import fitted_scale
from kronq.quantization.mixed.gptq import bounds, nearest

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

CHOICES = np.array(WIDTHS[1:], dtype=np.uint8)
_SAMPLE = 192
"""Entries of a channel that its error is judged by."""


@dataclass(frozen=True, eq=False)
class Side:
    """One matrix of a batch of layers, its channels judged.

    Attributes:
        errors: [layers, channels, widths]: what is lost at each of ``CHOICES``.
        nbytes: [widths]: what a channel takes, its scale included.
    """

    errors: F64
    nbytes: I64


@dataclass(frozen=True, eq=False)
class Option:
    """One way to store a batch of layers.

    Attributes:
        sides: One matrix, or two whose channels are there together or not at all.
        absent: [layers, channels]: what is lost without the channel.
    """

    sides: tuple[Side, ...]
    absent: F64


@dataclass(frozen=True, eq=False)
class Choice:
    """What was decided for a batch.

    Attributes:
        option: [layers]: which of its options each layer takes.
        widths: Of each side, [layers, channels].
    """

    option: NDArray[np.intp]
    widths: tuple[U8, ...]


def joined(parts: Sequence[Option]) -> Option:
    """The same way to store several batches of one shape, as one."""
    sides = tuple(
        Side(np.concatenate([side.errors for side in each]), each[0].nbytes)
        for each in zip(*(part.sides for part in parts), strict=True)
    )
    return Option(sides, np.concatenate([part.absent for part in parts]))


def judge(channels: F32, worth: F64, *, scaled: bool) -> Side:
    """Measures every channel [layers, channels, length] at every width.

    Args:
        channels: The values.
        worth: [layers, channels]: what a squared error of an entry is worth.
        scaled: Whether a scale is stored with each channel.
    """
    layers, count, length = channels.shape
    part = channels[:, :, :: -(-length // _SAMPLE)]
    rows = np.ascontiguousarray(part).reshape(layers * count, -1)
    errors = np.empty((len(rows), len(CHOICES)))
    for i, bits in enumerate(CHOICES):
        scale = fitted_scale(rows, int(bits))[:, None]
        limits = bounds(np.array([bits], dtype=np.uint8))
        rest = rows - nearest(rows, scale, limits) * scale
        errors[:, i] = np.einsum("ij,ij->i", rest, rest)
    errors = errors.reshape(layers, count, -1) * (worth * length / part.shape[2])[..., None]
    sizes = np.array([packed_size(length, bits) for bits in WIDTHS[1:]])
    return Side(errors, sizes + 2 * scaled)


def choose(batches: Sequence[Sequence[Option]], nbytes: int) -> list[Choice]:
    """The widths of least error in so many bytes.

    Args:
        batches: The options of each batch of layers.
        nbytes: Of all codes and scales together.
    """
    low, high = -400.0, 400.0
    for _ in range(60):
        middle = (low + high) / 2
        found = [_cheapest(options, 2.0**middle) for options in batches]
        if sum(size for _, size in found) > nbytes:
            low = middle
        else:
            high = middle
    found = [_cheapest(options, 2.0**high) for options in batches]
    chosen = [choice for choice, _ in found]
    _spend(batches, chosen, nbytes - sum(size for _, size in found))
    return chosen


def _cheapest(options: Sequence[Option], price: float) -> tuple[Choice, int]:
    """For every layer the option and the widths of least error + price · bytes."""
    picks, costs = [], []
    for option in options:
        priced = [side.errors + price * side.nbytes for side in option.sides]
        at = [each.argmin(axis=2) for each in priced]
        there = sum(each.min(axis=2) for each in priced)
        costs.append(np.minimum(there, option.absent).sum(axis=1))
        picks.append([np.where(there < option.absent, 1 + each, 0) for each in at])
    best = np.argmin(costs, axis=0)
    every = np.arange(len(best))
    chosen = [np.stack(each)[best, every] for each in zip(*picks, strict=True)]
    sizes = [np.concatenate([[0], side.nbytes]) for side in options[0].sides]
    size = sum(int(s[at].sum()) for s, at in zip(sizes, chosen, strict=True))
    return Choice(best, tuple(np.array(WIDTHS, dtype=np.uint8)[at] for at in chosen)), size


def _spend(batches: Sequence[Sequence[Option]], chosen: list[Choice], left: int) -> None:
    """Gives what is left to channels, in place, most error saved per byte first."""
    offers: list[tuple[Any, ...]] = []
    for batch, (options, choice) in enumerate(zip(batches, chosen, strict=True)):
        every = np.arange(len(choice.option))
        for side, widths in enumerate(choice.widths):
            at = widths.astype(np.intp) - 2
            wider = np.minimum(at + 1, len(CHOICES) - 1)
            errors = np.stack([o.sides[side].errors for o in options])[choice.option, every]
            sizes = options[0].sides[side].nbytes
            saved = np.take_along_axis(errors, np.maximum(at, 0)[..., None], 2)[..., 0]
            saved -= np.take_along_axis(errors, wider[..., None], 2)[..., 0]
            more = sizes[wider] - sizes[np.maximum(at, 0)]
            open_ = (at >= 0) & (more > 0) & (saved > 0)
            offers.extend(
                (saved[i] / more[i], int(more[i]), batch, side, i)
                for i in zip(*np.nonzero(open_), strict=True)
            )
    for _, more, batch, side, place in sorted(offers, key=lambda offer: -offer[0]):
        if more <= left:
            chosen[batch].widths[side][place] += 1
            left -= more
