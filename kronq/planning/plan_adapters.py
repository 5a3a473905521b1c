"""``kronq.plan``: parameters and file sizes of adapters that are not trained yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import ArgumentError, StrPath
from kronq.model.adapter import Adapter, Origin
from kronq.model.layer_expressions import NameMatcher
from kronq.packed import packed_size
from kronq.planning.families import AdapterShape, make_delta
from kronq.planning.linear_layers import LinearLayers, read_linear_layers
from kronq.quantization.mixed.nominal_size import nominal_file_size
from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.units import parse_size

NATIVE_BITS = (8, 4, 3, 2)
COMPACT_BITS = (2, 1)


class PlannedAdapter(BaseModel):
    """Parameters and sizes of one family and rank."""

    model_config = ConfigDict(frozen=True)

    family: str = Field(description="The family with its sizes.")
    rank: int
    parameters: int = Field(description="Of LoRA-XS R alone: its bases are computed from the base.")
    share: float = Field(description="Of the parameters of the adapted layers.")
    fp16_bytes: int = Field(description="Packed file without quantization.")
    native_bytes: dict[str, int] = Field(
        description="Bits → about the bytes of the file that 'quantize --bits' writes."
    )
    compact_bytes: dict[str, int] = Field(
        description="Bits → bytes of the file that 'quantize --bpw' writes."
    )
    bits_in_size: float | None = Field(
        description="Bits per parameter of a file of the size that was asked for."
    )


class Plan(Displayed):
    """What adapters of several families and ranks would cost on one model."""

    model: str
    layers: int
    size: int | None
    adapters: list[PlannedAdapter]

    def view(self) -> TableView:
        sized = [] if self.size is None else [f"bits in {self.size:,}"]
        columns = ["family", "r", "parameters", "of W", "fp16"]
        columns += [f"{bits} bit" for bits in NATIVE_BITS]
        columns += [f"compact {bits}" for bits in COMPACT_BITS] + sized
        rows = [
            [
                each.family,
                str(each.rank),
                f"{each.parameters:,}",
                f"{each.share:.3%}",
                *(f"{n:,}" for n in _sizes(each)),
                *([] if each.bits_in_size is None else [f"{each.bits_in_size:.2f}"]),
            ]
            for each in self.adapters
        ]
        after = ["Whole files, header and scales included; of native widths within 2 % and 1 KB."]
        if any(each.family == "lora-xs" for each in self.adapters):
            after.append(
                "lora-xs: R alone. Who receives it computes the bases from the base model."
            )
        return TableView(
            columns,
            rows,
            before=[f"{self.model}: {self.layers:,} linear layers"],
            after=after,
            droppable=("of W", "3 bit", "8 bit", "fp16"),
        )


def _sizes(planned: PlannedAdapter) -> list[int]:
    return [
        planned.fp16_bytes,
        *planned.native_bytes.values(),
        *planned.compact_bytes.values(),
    ]


@dataclass(frozen=True)
class _Layers:
    """Layers that are adapted: their sizes, and all their weights' number."""

    shapes: LinearLayers
    weights: int


def plan(
    config: StrPath,
    shapes: Sequence[AdapterShape],
    *,
    only: str | None = None,
    size: int | str | None = None,
) -> Plan:
    """Counts parameters and bytes of adapters on a model that need not be at hand.

    Args:
        config: A Hugging Face ``config.json``, or a folder that holds one.
        shapes: Families and their sizes.
        only: A regular expression: layers in whose names it is found. Without it, all linear
            layers but the output embedding, as PEFT's ``all-linear``.
        size: Bytes of a file, or a text such as ``"40KB"``: how many bits per parameter it has.

    Returns:
        The plan; ``str(plan)`` is a table.

    Raises:
        FormatError: The config cannot be read.
        ArgumentError: No layer is meant, or a family cannot have its sizes there.

    Example:
        >>> shapes = [kronq.AdapterShape("kron", 8), kronq.AdapterShape("lora", 2)]
        >>> print(kronq.plan("config.json", shapes))
    """
    found, head = read_linear_layers(config)
    matcher = NameMatcher()
    meant = {n: s for n, s in found.items() if (matcher.matches(only, n) if only else n != head)}
    if not meant:
        raise ArgumentError("no layer has such a name", path=config, found=only)
    layers = _Layers(meant, sum(rows * cols for rows, cols in meant.values()))
    wanted = None if size is None else parse_size(size)
    return Plan(
        model=str(config),
        layers=len(meant),
        size=wanted,
        adapters=[_plan_one(shape, layers, wanted) for shape in shapes],
    )


def _plan_one(shape: AdapterShape, layers: _Layers, size: int | None) -> PlannedAdapter:
    made = {s: make_delta(shape, *s) for s in set(layers.shapes.values())}
    adapter = Adapter({n: made[s] for n, s in layers.shapes.items()}, Origin("memory"))
    return PlannedAdapter(
        family=str(shape),
        rank=shape.rank,
        parameters=adapter.parameters,
        share=adapter.parameters / layers.weights,
        fp16_bytes=packed_size(adapter),
        native_bytes={str(bits): nominal_file_size(adapter, bits) for bits in NATIVE_BITS},
        compact_bytes={str(bits): adapter.parameters * bits // 8 for bits in COMPACT_BITS},
        bits_in_size=None if size is None else size * 8 / adapter.parameters,
    )
