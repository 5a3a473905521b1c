"""Summary of an adapter from its headers alone, as ``kronq inspect`` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import printable
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta
from kronq.model.frozen_bases import LORA_XS
from kronq.model.layer_names import describe_names, name_template, natural_key
from kronq.model.matrix_stacks import SeparateMatrices
from kronq.model.other_parts import OtherParts, other_parts
from kronq.model.stacks import LayerStack
from kronq.report.display.displayed import Displayed
from kronq.report.display.summary_view import summary_line, summary_view
from kronq.report.display.table_view import TableView


class GroupSummary(BaseModel):
    """Layers of one shape, scale and storage whose names differ only in a number."""

    model_config = ConfigDict(frozen=True)

    layers: str = Field(description="Their names as one template.")
    count: int
    shape: tuple[int, int] = Field(
        description="ΔW: [d_out, d_in]; of a convolution [d_out, d_in · positions in the kernel]."
    )
    kernel: list[int] = Field(description="Sizes of a convolution's kernel; empty if linear.")
    magnitude: tuple[int, int] | None = Field(
        description="DoRA's magnitude: [d_out, 1] or [1, d_in]; null without."
    )
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
    system: str | None = Field(description="What trained it, where the file tells: LoRA-XS.")
    bases: str | None = Field(
        description="Of LoRA-XS's R alone: the frozen bases that it needs; null if it has its own."
    )
    checksum: str | None = Field(description="Of a packed file; null where it has none.")
    verified: bool = Field(description="Whether the checksum was compared with the contents.")
    base_weights: str | None = Field(
        description="Digest of the base's weights that the adapter was calibrated or tested with."
    )
    provenance: dict[str, str | None] | None = Field(
        description="Where a packed file comes from: format and SHA-256 of its source, scale rule, "
        "digest of the calibration, kronq's version; null where the file does not tell."
    )
    layers: int
    parameters: int
    bytes: int = Field(description="The file on disk, header included.")
    bits_per_parameter: float
    recipe: dict[str, Any] | None = Field(description="How it was quantized; null if it was not.")
    other_parts: OtherParts
    groups: list[GroupSummary]

    def view(self) -> TableView:
        """Returns the summary as a table."""
        return summary_view(self)

    def __repr__(self) -> str:
        return printable(summary_line(self))


def summarize(adapter: Adapter) -> Summary:
    """Summarizes an adapter without reading any matrix."""
    size = adapter.origin.file_bytes or adapter.nbytes
    return Summary(
        path=str(adapter.origin.path) if adapter.origin.path else None,
        format=adapter.origin.format,
        family=adapter.family,
        base_model=adapter.origin.base_model,
        system=LORA_XS if adapter.bases is not None else adapter.origin.system,
        bases=adapter.bases.described if adapter.bases is not None else None,
        checksum=adapter.origin.checksum,
        verified=adapter.origin.verified and adapter.origin.checksum is not None,
        base_weights=adapter.base.digest if adapter.base else None,
        provenance=asdict(adapter.provenance) if adapter.provenance else None,
        layers=len(adapter),
        parameters=adapter.parameters,
        bytes=size,
        bits_per_parameter=8 * size / adapter.parameters,
        recipe=asdict(adapter.recipe) if adapter.recipe else None,
        other_parts=other_parts(adapter),
        groups=_groups(adapter),
    )


def _groups(adapter: Adapter) -> list[GroupSummary]:
    """Returns the groups in the natural order of their first layers."""
    found: dict[object, list[tuple[LayerStack, list[int]]]] = {}
    numbers: dict[object, int] = {}  # of kinds: they are long, and hashed for every layer
    for stack in adapter.stacks:
        kinds = [numbers.setdefault(kind, len(numbers)) for kind in _kinds(stack)]
        layers: dict[object, list[int]] = {}
        each = zip(stack.names, stack.scales, cycle(kinds), strict=False)
        for layer, (name, scale, number) in enumerate(each):
            core = None if adapter.bases is None else _core_shape(adapter, name)
            alike = name_template(name), scale, number, core
            layers.setdefault(alike, []).append(layer)
        for kind, members in layers.items():
            found.setdefault(kind, []).append((stack, members))
    named = []
    for parts in found.values():
        names = [stack.names[layer] for stack, members in parts for layer in members]
        names.sort(key=natural_key)
        named.append((names, _group(adapter, names, parts)))
    return [group for _, group in sorted(named, key=lambda each: natural_key(each[0][0]))]


def _kinds(stack: LayerStack) -> list[object]:
    """Returns the shapes and dtypes of each layer, or once if all have the same."""
    together = not any(isinstance(each, SeparateMatrices) for each in (*stack.a, *stack.b))
    deltas = [stack.first] if together else map(stack.delta, range(len(stack.names)))
    return [
        (d.shape, d.kernel, _magnitude(d), *((m.shape, m.dtype) for m in d.matrices))
        for d in deltas
    ]


def _magnitude(delta: Delta) -> tuple[int, int] | None:
    return None if delta.magnitude is None else delta.magnitude.shape


def _core_shape(adapter: Adapter, layer: str) -> tuple[int, int] | None:
    """Returns (d_out, d_in) of a layer that is LoRA-XS's R alone; None for any other."""
    cores = {} if adapter.bases is None else adapter.bases.layers
    return cores[layer].shape if layer in cores else None


def _group(
    adapter: Adapter,
    names: Sequence[str],
    parts: Sequence[tuple[LayerStack, Sequence[int]]],
) -> GroupSummary:
    stack, layers = parts[0]
    first = stack.delta(layers[0])
    parameters = first.parameters * len(names)
    size = sum(stack.nbytes([*layers]) for stack, layers in parts)
    return GroupSummary(
        layers=describe_names(names),
        count=len(names),
        shape=_core_shape(adapter, names[0]) or first.shape,
        kernel=[*first.kernel],
        magnitude=_magnitude(first),
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
