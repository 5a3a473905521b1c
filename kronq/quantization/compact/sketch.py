"""Compact codes of about a size, made in one pass: for curves, where no size has to be met."""

from __future__ import annotations

from dataclasses import replace

from kronq.model.adapter import Adapter, Recipe
from kronq.quantization.compact.size_budget import gaussian_step, order_as_in_file
from kronq.trellis.coded_layers import build_coded_layers
from kronq.trellis.rate_tables import RateTables
from kronq.trellis.rounding import round_and_learn, round_targets
from kronq.trellis.targets import prepare_targets


def sketch(adapter: Adapter, bpw: float) -> Adapter:
    """Quantizes to compact codes of roughly ``bpw`` bits per weight.

    The step is that of Gaussian weights, and the tables are learned once; ``fill_size`` repeats
    both until the size is met.
    """
    adapter = order_as_in_file(adapter)
    targets = prepare_targets(adapter, None)
    step = gaussian_step(targets, round(bpw * adapter.parameters / 8))
    _, tables = round_and_learn(targets, step, RateTables())
    levels = round_targets(targets, step, tables)
    layers = build_coded_layers(adapter, targets, levels)
    return replace(adapter, layers=layers, recipe=Recipe("compact", bpw))
