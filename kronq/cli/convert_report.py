"""Report of ``kronq convert``."""

from __future__ import annotations

from pydantic import BaseModel

from kronq.model.adapter import Adapter


class ConvertReport(BaseModel):
    """Sizes of the adapter that was written, and of its source."""

    output: str
    family: str
    layers: int
    rank: int
    parameters: int
    bytes: int
    parameters_before: int
    bytes_before: int


def report_sizes(before: Adapter, converted: Adapter, output: str, size: int) -> ConvertReport:
    """Returns the sizes before and after; ``size`` is that of the output in bytes."""
    return ConvertReport(
        output=output,
        family=converted.family,
        layers=len(converted),
        rank=max(delta.rank for delta in converted.values()),
        parameters=converted.parameters,
        bytes=size,
        parameters_before=before.parameters,
        bytes_before=before.origin.file_bytes,
    )
