"""What is known before all layers are rounded at one step: norm classes, layout, rates of codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kronq.model.matrix import F32
from kronq.trellis.compiled_encoder import LARGEST_CONTEXT_CLASS, out_of_range
from kronq.trellis.lane_windows import Values
from kronq.trellis.layer_shape import I32
from kronq.trellis.product_target import LayerTarget
from kronq.trellis.rate_tables import RateTables
from kronq.trellis.reconstruction import shift_levels
from kronq.trellis.run_levels import RunLevels
from kronq.trellis.stream_layout import StreamLayout, lay_out_stream
from kronq.trellis.target_levels import left_levels, norm_classes_at, right_levels


@dataclass(frozen=True, eq=False)
class RoundingPlan:
    """Layout and tables by which all layers are coded at one step.

    Attributes:
        targets: The layers to be coded.
        step: Of the levels.
        norm_classes: Of every channel, by layer and product.
        layout: Of the stream.
        tables: Rates of codes.
    """

    targets: Sequence[LayerTarget]
    step: float
    norm_classes: list[list[I32]]
    layout: StreamLayout
    tables: RateTables

    def zeros(self) -> RunLevels:
        """Returns the levels of the stream, to be filled in."""
        return RunLevels.zeros(self.layout)

    def left(self) -> Values:
        """Returns left matrices in levels, by layer and product."""

        def values(layer: int, product: int) -> F32:
            return left_levels(self.targets[layer], self.norm_classes[layer], self.step, product)

        return values

    def right(self, levels: RunLevels) -> Values:
        """Returns right matrices in levels, fitted to the rounded left ones in ``levels``."""
        shifts = self.tables.shifts

        def values(layer: int, product: int) -> F32:
            left = shift_levels(levels.matrix((layer, product, 0)), shifts)
            target, classes = self.targets[layer], self.norm_classes[layer]
            return right_levels(target, classes, left, self.step, product)

        return values


def plan_rounding(
    targets: Sequence[LayerTarget],
    step: float,
    tables: RateTables,
    norm_classes: list[list[I32]] | None = None,
) -> RoundingPlan:
    """Lays out the stream of ``targets`` at ``step``.

    Args:
        targets: The layers to be coded.
        step: Of the levels.
        tables: Rates of codes.
        norm_classes: Others than the channels have at this step.

    Raises:
        FormatError: A layer would have levels that are too large to be coded.
    """
    if norm_classes is None:
        norm_classes = [norm_classes_at(target, step) for target in targets]
    shapes = [target.shape for target in targets]
    layout = lay_out_stream(shapes, norm_classes, [target.offsets for target in targets])
    if any(run.context_class > LARGEST_CONTEXT_CLASS for run in layout.runs):
        raise out_of_range()
    return RoundingPlan(targets, step, norm_classes, layout, tables)
