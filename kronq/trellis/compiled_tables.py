"""Tables of a stream's runs, as kronq's library takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kronq.trellis.context_counts import I64, NUMBER_CLASS, prior_counts
from kronq.trellis.stream_layout import Run


def number_table() -> tuple[int, I64]:
    """Returns the largest symbol of a list of numbers, and its counts, which C changes."""
    counts = prior_counts(NUMBER_CLASS, 0).copy()
    return len(counts) - 1, counts


def run_tables(runs: Sequence[Run]) -> tuple[int | NDArray[np.int64], ...]:
    """Returns how many contexts the runs have, the largest symbol of each and all counts.

    Then come the number of runs, the first context of each, that of even states, with that of odd
    ones behind it, and their sizes.
    """
    kinds = dict.fromkeys(run.context_class for run in runs)
    places = {kind: 2 * i for i, kind in enumerate(kinds)}
    priors = [prior_counts(kind, odd) for kind in kinds for odd in (0, 1)]
    largest = np.array([len(prior) - 1 for prior in priors], dtype=np.int64)
    counts = np.concatenate([np.zeros(0, dtype=np.int64), *priors])
    of_run = np.array([places[run.context_class] for run in runs], dtype=np.int64)
    sizes = np.array([run.size for run in runs], dtype=np.int64)
    return len(priors), largest, counts, len(runs), of_run, sizes
