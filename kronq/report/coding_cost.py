"""Coding cost of each layer: the bits of a file that its codes take.

A layer of native codes costs its bytes. In an entropy-coded stream the cost of a level is −log2 of
the share of its code among those of its context class and trellis state, and a bit for a sign. The
adaptive coder pays a little more than that, and for the norm classes of channels; this remainder is
spread over all layers in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.adapter import Adapter
from kronq.model.delta import F64, Delta
from kronq.packed import group_layers
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.layer_shape import I32
from kronq.trellis.states import NEXT_STATE, codes_from_levels
from kronq.trellis.stream import lay_out_layers
from kronq.trellis.stream_layout import LANE, StreamLayout, split_lanes

_LANES = 2**14
"""Lanes that are worked on at once."""


def coding_costs(adapter: Adapter) -> dict[str, float]:
    """Returns the cost of every layer in bits; entropy-coded layers add up to their stream."""
    costs = {name: 8.0 * delta.nbytes for name, delta in adapter.items()}
    coded = {n: d for n, d in adapter.items() if isinstance(d.b.left, EntropyCoded)}
    if coded:
        stream = sum(costs[name] for name in coded)
        in_order = [name for names in group_layers(adapter) for name in names if name in coded]
        ideal = _ideal_costs([coded[name] for name in in_order])
        total = float(ideal.sum())
        if total > 0:  # if no level is coded, the stream is shared by parameters
            costs |= dict(zip(in_order, (ideal * (stream / total)).tolist(), strict=True))
    return costs


def round_to_bytes(bits: Sequence[float]) -> list[int]:
    """Rounds bits to whole bytes whose sum is that of the bits, by carrying remainders over."""
    ends = np.rint(np.cumsum([0.0, *bits]) / 8).astype(np.int64)
    return [int(n) for n in np.diff(ends)]


@dataclass(frozen=True, eq=False)
class _CodedPart:
    """Some lanes of a run, whose codes follow one another.

    Attributes:
        context_class: Of the run.
        codes: Magnitudes [n].
        odd: Parity of the state that each was chosen in [n].
        owners: The layer of each [n].
    """

    context_class: int
    codes: I32
    odd: NDArray[np.int8]
    owners: NDArray[np.int64]


def _ideal_costs(layers: Sequence[Delta]) -> F64:
    """Returns the bits of each layer's levels [layers], by their shares in all layers."""
    layout, levels = lay_out_layers(layers)
    parts: Callable[[], Iterable[_CodedPart]] = partial(_coded_parts, layout, levels)
    if sum(run.size for run in layout.runs) <= LANE * _LANES:
        made = [*parts()]
        parts = lambda: made  # noqa: E731
    counts: dict[tuple[int, int], NDArray[np.int64]] = {}
    for part in parts():
        for parity in (0, 1):
            found = np.bincount(part.codes[part.odd == parity])
            before = counts.get((part.context_class, parity), found[:0])
            longer, shorter = (found, before) if len(found) > len(before) else (before, found)
            longer[: len(shorter)] += shorter
            counts[part.context_class, parity] = longer
    costs = np.zeros(len(layers))
    bits = {key: -np.log2(np.maximum(n, 1) / max(1, n.sum())) for key, n in counts.items()}
    for part in parts():
        for parity in (0, 1):
            chosen = part.odd == parity
            code = part.codes[chosen]
            cost = bits[part.context_class, parity][code] + (code > 0)
            costs += np.bincount(part.owners[chosen], cost, minlength=len(layers))
    return costs


def _coded_parts(layout: StreamLayout, levels: Sequence[NDArray[Any]]) -> Iterator[_CodedPart]:
    """Cuts the runs of a stream, of which codes and states at once would take much memory."""
    of_run, layer, _, _, _, length = layout.columns
    for number, (run, own) in enumerate(zip(layout.runs, levels, strict=True)):
        first, last = np.searchsorted(of_run, (number, number + 1))
        begins, lengths = layout.starts[first:last], length[first:last]
        for start in range(0, run.size, LANE * _LANES):
            end = min(start + LANE * _LANES, run.size)
            codes = codes_from_levels(own[start:end].astype(np.int32))
            here = np.minimum(begins + lengths, end) - np.maximum(begins, start)
            owners = np.repeat(layer[first:last], np.maximum(here, 0))
            yield _CodedPart(run.context_class, np.abs(codes), _odd_states(codes), owners)


def _odd_states(codes: I32) -> NDArray[np.int8]:
    """Returns whether each code of a run was chosen in an odd state of the trellis."""
    lanes = split_lanes(codes)
    odd = np.empty(lanes.shape, dtype=np.int8)
    state = np.zeros(len(lanes), dtype=np.int8)
    for t in range(LANE):
        odd[:, t] = state & 1
        state = NEXT_STATE[state, lanes[:, t] & 1]
    return odd.reshape(-1)[: len(codes)]
