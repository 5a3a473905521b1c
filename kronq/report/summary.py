"""Summary of an adapter from its headers alone, as ``kronq inspect`` shows it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import printable
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta
from kronq.model.layer_names import describe_names, name_template
from kronq.report.display.displayed import Displayed
from kronq.report.display.summary_view import summary_line, summary_view
from kronq.report.display.table_view import TableView


class GroupSummary(BaseModel):
    """Layers of one shape, scale and storage whose names differ only in a number."""

    model_config = ConfigDict(frozen=True)

    layers: str = Field(description="Their names as one template.")
    count: int
    shape: tuple[int, int] = Field(description="ΔW: [d_out, d_in].")
    a: tuple[int, int] | None = Field(description="A: [a_out, a_in]; null for a plain LoRA.")
    b: tuple[int, int] = Field(description="B: [b_out, b_in].")
    rank: int
    scale: float
    dtypes: list[str] = Field(description="Of the stored matrices, A first.")
    parameters: int
    bytes: int = Field(description="Without any header.")
    bits_per_parameter: float


class Summary(Displayed):
    """Families, shapes, sizes and recipe of one adapter.

    ``str(summary)`` is a table; notebooks show it as one.
    """

    path: str | None
    format: str = Field(description="kronq, peft, lycoris or factors.")
    family: str = Field(description="kron or lora.")
    base_model: str | None
    layers: int
    parameters: int
    bytes: int = Field(description="The file on disk, header included.")
    bits_per_parameter: float
    recipe: dict[str, Any] | None = Field(description="How it was quantized; null if it was not.")
    groups: list[GroupSummary]

    def view(self) -> TableView:
        """Returns the summary as a table."""
        return summary_view(self)

    def __repr__(self) -> str:
        return printable(summary_line(self))


def summarize(adapter: Adapter) -> Summary:
    """Summarizes an adapter without reading any matrix."""
    groups: dict[object, list[str]] = {}
    for name, delta in adapter.items():
        shapes = (delta.shape, *(m.shape for m in delta.matrices))
        key = (name_template(name), shapes, delta.scale, *_dtypes(delta))
        groups.setdefault(key, []).append(name)
    size = adapter.origin.file_bytes or adapter.nbytes
    return Summary(
        path=str(adapter.origin.path) if adapter.origin.path else None,
        format=adapter.origin.format,
        family=adapter.family,
        base_model=adapter.origin.base_model,
        layers=len(adapter),
        parameters=adapter.parameters,
        bytes=size,
        bits_per_parameter=8 * size / adapter.parameters,
        recipe=asdict(adapter.recipe) if adapter.recipe else None,
        groups=[_group(adapter, names) for names in groups.values()],
    )


def _group(adapter: Adapter, names: list[str]) -> GroupSummary:
    first = adapter[names[0]]
    parameters = sum(adapter[n].parameters for n in names)
    size = sum(adapter[n].nbytes for n in names)
    return GroupSummary(
        layers=describe_names(names),
        count=len(names),
        shape=first.shape,
        a=None if first.a is ONE else first.a.shape,
        b=first.b.shape,
        rank=first.rank,
        scale=first.scale,
        dtypes=_dtypes(first),
        parameters=parameters,
        bytes=size,
        bits_per_parameter=8 * size / parameters,
    )


def _dtypes(delta: Delta) -> list[str]:
    return [m.dtype for m in delta.matrices]
