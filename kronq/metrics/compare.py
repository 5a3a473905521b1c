"""Adapters side by side over bit widths, and at equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from kronq.adapter import Adapter
from kronq.metrics.bound import gaussian_bound
from kronq.metrics.report import Total, measure
from kronq.quantization import Method, quantize


class Fit(BaseModel):
    """The best that another adapter gives in no more bytes, among the widths measured."""

    model_config = ConfigDict(frozen=True)

    method: str
    bits: int
    bytes: int
    relative_error: float
    snr_db: float | None


class Row(Total):
    """One adapter at one width."""

    adapter: str
    family: str
    method: str
    bits: int
    equal_bytes: dict[str, Fit | None] = Field(
        default_factory=dict,
        description="Every other adapter → its best in no more bytes; null if nothing fits.",
    )


class Comparison(BaseModel):
    """All adapters at all widths; files are sized as ``kronq quantize`` writes them."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    rows: list[Row]


def compare(
    adapters: Mapping[str, Adapter],
    bits: Sequence[int] = (16, 8, 4, 3, 2),
    *,
    methods: Sequence[Method] = ("balanced",),
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Quantizes every adapter at every width and measures each result.

    Args:
        adapters: Label → adapter.
        bits: Widths; 16 is float16, whatever the method.
        methods: ``balanced`` and ``rtn``, or either.
        progress: Called with (measurements done, measurements in all).

    Raises:
        KronqError: As ``quantize`` does.
    """
    jobs: list[tuple[str, Method, int]] = []
    for label in adapters:
        for width in bits:
            kinds: Sequence[Method] = ("fp16",) if width == 16 else methods
            jobs.extend((label, method, width) for method in kinds)
    bounds = {label: gaussian_bound(adapter) for label, adapter in adapters.items()}
    rows = []
    for done, (label, method, width) in enumerate(jobs, 1):
        adapter = adapters[label]
        report = measure(adapter, quantize(adapter, width, method=method), bound=bounds[label])
        rows.append(
            Row(
                **report.total.model_dump(),
                adapter=label,
                family=adapter.family,
                method=method,
                bits=width,
            )
        )
        if progress is not None:
            progress(done, len(jobs))
    others = {row.adapter for row in rows}
    return Comparison(
        rows=[
            row.model_copy(
                update={
                    "equal_bytes": {
                        other: _fit(rows, other, row.bytes)
                        for other in sorted(others - {row.adapter})
                    }
                }
            )
            for row in rows
        ]
    )


def _fit(rows: Sequence[Row], adapter: str, size: int) -> Fit | None:
    fitting = [row for row in rows if row.adapter == adapter and row.bytes <= size]
    if not fitting:
        return None
    best = min(fitting, key=lambda row: row.relative_error)
    return Fit.model_validate(best.model_dump(include=set(Fit.model_fields)))
