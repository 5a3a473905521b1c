"""Coding cost of each layer: the bits of a file that its codes take.

A layer of native codes costs its bytes. In an entropy-coded stream the cost of a level is −log2 of
the share of its code among those of its context class and trellis state, and a bit for a sign. The
adaptive coder pays a little more than that, and for the norm classes of channels; this remainder is
spread over all layers in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import F64, Delta
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.layer_shape import I32
from kronq.trellis.states import NEXT_STATE, codes_from_levels
from kronq.trellis.stream import lay_out_layers
from kronq.trellis.stream_layout import LANE, Run, split_lanes


def coding_costs(adapter: Adapter) -> dict[str, float]:
    """Returns the cost of every layer in bits; entropy-coded layers add up to their stream."""
    costs = {name: 8.0 * delta.nbytes for name, delta in adapter.items()}
    coded = {n: d for n, d in adapter.items() if isinstance(d.b.left, EntropyCoded)}
    if coded:
        stream = sum(costs[name] for name in coded)
        ideal = _ideal_costs([*coded.values()])
        total = float(ideal.sum())
        if total > 0:  # if no level is coded, the stream is shared by parameters
            costs |= dict(zip(coded, (ideal * (stream / total)).tolist(), strict=True))
    return costs


def round_to_bytes(bits: Sequence[float]) -> list[int]:
    """Rounds bits to whole bytes whose sum is that of the bits, by carrying remainders over."""
    ends = np.rint(np.cumsum([0.0, *bits]) / 8).astype(np.int64)
    return [int(n) for n in np.diff(ends)]


def _ideal_costs(layers: Sequence[Delta]) -> F64:
    """Returns the bits of each layer's levels [layers], by their shares in all layers."""
    layout, levels = lay_out_layers(layers)
    owners = layout.gather(lambda part: np.full(part.length, part.layer, dtype=np.int32))
    return _costs_by_owner(layout.runs, levels, owners, len(layers))


def _costs_by_owner(
    runs: Sequence[Run], levels: Sequence[I32], owners: Sequence[I32], layers: int
) -> F64:
    costs = np.zeros(layers)
    codes = [codes_from_levels(level) for level in levels]
    odd = [_odd_states(code) for code in codes]
    for context in {run.context_class for run in runs}:
        members = [i for i, run in enumerate(runs) if run.context_class == context]
        for parity in (0, 1):
            chosen = [(i, odd[i] == parity) for i in members]
            code = np.abs(np.concatenate([codes[i][mask] for i, mask in chosen]))
            owner = np.concatenate([owners[i][mask] for i, mask in chosen])
            if code.size:
                counts = np.bincount(code)
                bits = -np.log2(np.maximum(counts, 1) / code.size)
                costs += np.bincount(owner, bits[code] + (code > 0), minlength=layers)
    return costs


def _odd_states(codes: I32) -> I32:
    """Returns whether each code of a run was chosen in an odd state of the trellis."""
    lanes = split_lanes(codes)
    odd = np.empty_like(lanes)
    state = np.zeros(len(lanes), dtype=np.int8)
    for t in range(LANE):
        odd[:, t] = state & 1
        state = NEXT_STATE[state, lanes[:, t] & 1]
    return odd.reshape(-1)[: len(codes)]
