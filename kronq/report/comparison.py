"""Adapters side by side over bit widths, at equal bytes, and beside other tools' files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import ArgumentError
from kronq.model.adapter import Adapter
from kronq.quantization.configs import FLOAT_BITS, WIDTHS, config_for
from kronq.quantization.quantize import quantize
from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.measurement import Total, measure

POINTS = 40
"""Of a bound's curve."""


class BaselineFile(Protocol):
    """An adapter as another tool keeps it: its floats, and the size of its file."""

    @property
    def adapter(self) -> Adapter: ...

    @property
    def nbytes(self) -> int: ...


class Baseline(Protocol):
    """Another tool at one setting; ``benchmarks.baselines`` of a checkout has some."""

    @property
    def name(self) -> str: ...

    @property
    def bits(self) -> int: ...

    @property
    def how(self) -> str: ...

    @property
    def run(self) -> Callable[[Adapter], BaselineFile]: ...


class Fit(BaseModel):
    """The best that kronq makes of another adapter in no more bytes, among the widths measured."""

    model_config = ConfigDict(frozen=True)

    method: str
    bits: int | float
    bytes: int
    relative_error: float
    snr_db: float | None


class Row(Total):
    """One adapter at one width."""

    adapter: str
    family: str
    method: str = Field(description="Of kronq; or a baseline, and its setting.")
    bits: int | float = Field(description="As asked for. A baseline: of its codes, without scales.")
    source: Literal["kronq", "baseline"] = "kronq"
    how: str | None = Field(default=None, description="Whose code computed a baseline.")
    equal_bytes: dict[str, Fit | None] = Field(
        default_factory=dict,
        description="Every other adapter → its best in no more bytes; null if nothing fits.",
    )


class BoundPoint(BaseModel):
    """A point of an adapter's Gaussian rate–distortion bound."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    snr_db: float = Field(description="The largest SNR of ΔW in a file of so many bytes.")


class Comparison(BaseModel):
    """All adapters at all widths; kronq's files are sized as ``kronq quantize`` writes them."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    rows: list[Row]
    bounds: dict[str, list[BoundPoint]] = Field(
        default_factory=dict, description="Every adapter → its bound, by rising bytes."
    )


@dataclass(frozen=True, eq=False)
class _Job:
    """One row to be measured: a method of kronq at a width, or a baseline."""

    adapter: str
    method: str | Baseline
    bits: float


def compare(
    adapters: Mapping[str, Adapter],
    bits: Sequence[float] = (16, 8, 4, 3, 2),
    *,
    methods: Sequence[str] = ("balanced",),
    baselines: Sequence[Baseline] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Quantizes every adapter at every width and measures each result.

    Args:
        adapters: Label → adapter.
        bits: Widths; 16 is float16, whatever the method, and those that codes of one width do not
            have (as 2.5) are for ``compact`` alone.
        methods: Some of ``native``, ``balanced``, ``rtn`` and ``compact``.
        baselines: Other tools, as ``benchmarks.baselines.installed()`` has them.
        progress: Called with (measurements done, measurements in all).

    Raises:
        KronqError: A width suits none of the methods; and as ``quantize`` does.
    """
    jobs = [
        job
        for label in adapters
        for job in (
            *(_Job(label, method, width) for width in bits for method in _suiting(width, methods)),
            *(_Job(label, baseline, baseline.bits) for baseline in baselines),
        )
    ]
    bounds = {label: gaussian_bound(adapter) for label, adapter in adapters.items()}
    rows = []
    for done, job in enumerate(jobs, 1):
        rows.append(_row(job, adapters[job.adapter], bounds[job.adapter]))
        if progress is not None:
            progress(done, len(jobs))
    return Comparison(
        rows=[row.model_copy(update={"equal_bytes": _others(row, rows)}) for row in rows],
        bounds={
            label: _curve(bounds[label], [row.bytes for row in rows if row.adapter == label])
            for label in adapters
        },
    )


def _suiting(width: float, methods: Sequence[str]) -> Sequence[str]:
    """The methods that have such a width.

    Raises:
        KronqError: None has.
    """
    if width == FLOAT_BITS:
        return ("fp16",)
    found = [method for method in methods if method == "compact" or width in WIDTHS]
    if not found:
        raise ArgumentError(
            "no method has such a width",
            found=f"{width:g}",
            expected=f"some of {(FLOAT_BITS, *WIDTHS)}",
            hint="compact takes any",
        )
    return found


def _row(job: _Job, adapter: Adapter, bound: GaussianBound) -> Row:
    if not isinstance(job.method, str):
        made = job.method.run(adapter)
        total = measure(adapter, made.adapter, bound=bound).total
        total = _resized(total, adapter, made.nbytes, bound)
        told = {"method": job.method.name, "source": "baseline", "how": job.method.how}
    else:
        quantized = quantize(adapter, config_for(job.method, job.bits))
        total = measure(adapter, quantized, bound=bound).total
        told = {"method": job.method}
    told |= {"adapter": job.adapter, "family": adapter.family}
    return Row.model_validate({**total.model_dump(), **told, "bits": job.bits})


def _resized(total: Total, adapter: Adapter, nbytes: int, bound: GaussianBound) -> Total:
    """The figures of floats that another tool keeps in ``nbytes`` bytes, by trained parameter."""
    exact = total.snr_db is None
    bits = 8 * nbytes / adapter.parameters
    needed = bound.bits(total.relative_error) / adapter.parameters
    return total.model_copy(
        update={
            "parameters": adapter.parameters,
            "bytes": nbytes,
            "bits_per_parameter": bits,
            "bound_snr_db": None if exact else bound.snr_db(8 * nbytes),
            "bits_above_bound": None if exact else bits - needed,
        }
    )


def _curve(bound: GaussianBound, sizes: Sequence[int]) -> list[BoundPoint]:
    """The bound from the smallest to the largest file measured, evenly in the logarithm."""
    if not sizes:
        return []
    spaced = np.geomspace(min(sizes), max(sizes), POINTS)
    return [
        BoundPoint(bytes=size, snr_db=bound.snr_db(8.0 * size))
        for size in sorted({round(size) for size in spaced.tolist()})
    ]


def _others(row: Row, rows: Sequence[Row]) -> dict[str, Fit | None]:
    labels = {other.adapter for other in rows} - {row.adapter}
    return {label: _fit(rows, label, row.bytes) for label in sorted(labels)}


def _fit(rows: Sequence[Row], adapter: str, size: int) -> Fit | None:
    fitting = [
        row
        for row in rows
        if row.source == "kronq" and row.adapter == adapter and row.bytes <= size
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda row: row.relative_error)
    return Fit.model_validate(best.model_dump(include=set(Fit.model_fields)))
