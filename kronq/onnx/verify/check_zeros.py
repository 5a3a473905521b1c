"""Counts the zeros of a pruned base that are zeros in the merged weights on disk, too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronq.errors import KronqError
from kronq.onnx.base_folder import MODEL
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.merge.stored_update import read_float64, stored_range
from kronq.onnx.written_form import LayerWeight


def check_zeros(base: MatchedBase, folder: Path, weights: Mapping[LayerWeight, str]) -> int:
    """Returns the number of zeros in the base's adapted weights, all of which are kept.

    Args:
        base: The base as it was, and its adapter.
        folder: The export.
        weights: Layer and weight → the initializer of the merged weight.

    Raises:
        KronqError: A zero is none any more.
    """
    model = ir.load(folder / MODEL)
    count = 0
    for layer, (site, *_) in base.weights:
        source = site.source.const_value if site.source is not None else None
        stored = model.graph.initializers[weights[layer, site.weight_name]].const_value
        if source is None or stored is None:
            raise KronqError("a merged weight was not written", layer=layer)
        part = stored_range(site, base.adapter[layer])
        zeros = read_float64(source)[part] == 0
        filled = int(np.count_nonzero(read_float64(stored)[part][zeros]))
        if filled:
            raise KronqError(
                "zeros of the base are not zeros any more", layer=layer, found=f"{filled:,} of them"
            )
        count += int(np.count_nonzero(zeros))
    return count
