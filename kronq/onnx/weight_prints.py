"""Fingerprints of the weights that an adapter's layers have in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.errors import UnsupportedError
from kronq.model.base_fingerprint import (
    GRID,
    BaseFingerprint,
    WeightPrint,
    grid_places,
    join_prints,
    print_weight,
)
from kronq.onnx.graph.layer_match import Matches, sites_by_weight
from kronq.onnx.graph.sites import Site
from kronq.onnx.merge.stored_blocks import read_rows


def print_weights(
    matches: Matches, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, WeightPrint] | None:
    """Returns the fingerprint of every layer's weight; None where one is stored in an unknown way.

    Args:
        matches: Layer → its sites.
        shapes: Layer → (d_out, d_in).
    """
    try:
        return {layer: _print_layer(sites, shapes[layer]) for layer, sites in matches.items()}
    except UnsupportedError:
        return None


def fingerprint(prints: Mapping[str, WeightPrint] | None) -> BaseFingerprint | None:
    """Returns the fingerprint of all layers together."""
    return None if prints is None else join_prints(prints)


def _print_layer(sites: tuple[Site, ...], shape: tuple[int, int]) -> WeightPrint:
    rows, cols = (grid_places(size, most) for size, most in zip(shape, GRID, strict=True))
    grid = np.zeros((len(rows), len(cols)), dtype=np.float32)
    weights = [same[0] for same in sites_by_weight(sites)]
    for site in weights if weights[0].share else weights[:1]:
        first, stop = site.share or (0, shape[0])
        here = (first <= rows) & (rows < stop)
        start = site.rows(shape[0])[0] - first
        grid[here] = _read_grid(site, rows[here] + start, cols)
    return print_weight(grid, shape, rounded=any(site.codes is not None for site in weights))


def _read_grid(site: Site, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[Any]:
    """Returns the values at rows (outputs) and columns (inputs) of a weight."""
    if site.codes is not None:
        return np.asarray(read_rows(site, rows)[:, cols])
    tensor = site.source.const_value if site.source is not None else None
    if tensor is None:
        raise UnsupportedError("a weight without values", found=site.label)
    values = _take(tensor.numpy(), site, rows, cols)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return values


def _take(
    stored: NDArray[Any], site: Site, rows: NDArray[np.intp], cols: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Returns a copy of the grid's values alone; others are not read from a mapped file."""
    if site.conv is not None:
        stored = stored.reshape(len(stored), -1)
    if site.stored_transposed:
        return stored[np.ix_(rows, cols)].astype(np.float32)
    return stored[np.ix_(cols, rows)].T.astype(np.float32)
