"""Where the bits of a file went: what every layer's codes really cost, not its share of numbers.

A layer of native codes costs its bytes. In an entropy-coded stream a loud component's levels cost
many bits and a faint one's next to none; what a level cost is −log2 of how often its code occurred
among those of its class and kind of state, and a sign. (The coder learns these tables on its way,
so it pays a little more than they say, and for the channels' sizes: that is spread over all alike.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kronq.model.adapter import Adapter
from kronq.model.delta import F64, Delta
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.layer_shape import I32, layer_shape
from kronq.trellis.states import NEXT_STATE, codes_from_levels
from kronq.trellis.stream import decoded_levels
from kronq.trellis.stream_layout import LANE, Run, lay_out_stream, split_lanes


def bits_spent(adapter: Adapter) -> dict[str, float]:
    """Bits of every layer; those of compact layers add up to their stream."""
    spent = {name: 8.0 * delta.nbytes for name, delta in adapter.items()}
    coded = {n: d for n, d in adapter.items() if isinstance(d.b.left, EntropyCoded)}
    if coded:
        stream = sum(spent[name] for name in coded)
        costs = _costs([*coded.values()])
        total = float(costs.sum())
        if total > 0:  # else nothing is coded, and what the stream has is spread by parameters
            spent |= dict(zip(coded, (costs * (stream / total)).tolist(), strict=True))
    return spent


def whole_bytes(bits: Sequence[float]) -> list[int]:
    """Bits as whole bytes that add up to all of them, each rounded with what the last left over."""
    ends = np.rint(np.cumsum([0.0, *bits]) / 8).astype(np.int64)
    return [int(n) for n in np.diff(ends)]


def _costs(layers: Sequence[Delta]) -> F64:
    """Returns the bits of each layer's levels [layers], under the tables of all of them."""
    matrices = [decoded_levels(delta) for delta in layers]
    classes = [[product[0].norm_classes for product in each] for each in matrices]
    offsets = [each[-1][0].offsets for each in matrices]
    layout = lay_out_stream([layer_shape(delta) for delta in layers], classes, offsets)
    levels = layout.gather(
        lambda part: layout.view(matrices[part.layer][part.product][part.side].levels, part)
    )
    owners = layout.gather(lambda part: np.full(part.length, part.layer, dtype=np.int32))
    return _told_apart(layout.runs, levels, owners, len(layers))


def _told_apart(
    runs: Sequence[Run], levels: Sequence[I32], owners: Sequence[I32], layers: int
) -> F64:
    costs = np.zeros(layers)
    codes = [codes_from_levels(level) for level in levels]
    odd = [_odd(code) for code in codes]
    for kind in {run.context_class for run in runs}:
        mine = [i for i, run in enumerate(runs) if run.context_class == kind]
        for side in (0, 1):
            chosen = [odd[i] == side for i in mine]
            code = np.abs(np.concatenate([codes[i][c] for i, c in zip(mine, chosen, strict=True)]))
            owner = np.concatenate([owners[i][c] for i, c in zip(mine, chosen, strict=True)])
            if code.size:
                counts = np.bincount(code)
                bits = -np.log2(np.maximum(counts, 1) / code.size)
                costs += np.bincount(owner, bits[code] + (code > 0), minlength=layers)
    return costs


def _odd(codes: I32) -> I32:
    """Whether each code of a run came from an odd state of the trellis, which lanes walk alike."""
    lanes = split_lanes(codes)
    odd = np.empty_like(lanes)
    state = np.zeros(len(lanes), dtype=np.int8)
    for t in range(LANE):
        odd[:, t] = state & 1
        state = NEXT_STATE[state, lanes[:, t] & 1]
    return odd.reshape(-1)[: len(codes)]
