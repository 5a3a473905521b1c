"""Comparison of adapters over widths, at equal bytes, and with the files of other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kronq.errors import ArgumentError, check_type
from kronq.model.adapter import Adapter
from kronq.quantization.config_checks import FLOAT_BITS, WIDTHS
from kronq.quantization.config_names import config_for
from kronq.quantization.quantize import quantize
from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.comparison_models import (
    Baseline,
    BoundPoint,
    Comparison,
    ComparisonRow,
    EqualBytesFit,
)
from kronq.report.measurement import measure
from kronq.report.models import TotalStatistics

BOUND_POINTS = 40
"""Points of each adapter's bound."""


@dataclass(frozen=True, eq=False)
class _Job:
    """Row to measure: a method of kronq at a width, or a baseline."""

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
        bits: Widths; 16 is float16, whatever the method, and widths that fixed-width codes do not
            have (such as 2.5) are for ``compact`` alone.
        methods: Some of ``native``, ``balanced``, ``rtn`` and ``compact``.
        baselines: Other tools, from ``benchmarks.baselines.installed()``.
        progress: Called with (measurements done, measurements in all).

    Raises:
        KronqError: No method has one of the widths; and as ``quantize`` does.
    """
    check_type("adapters", adapters, Mapping)
    for width in bits:
        check_type("bits", width, int, float)
    jobs = list(_jobs(adapters, bits, methods, baselines))
    bounds = {label: gaussian_bound(adapter) for label, adapter in adapters.items()}
    rows = []
    for done, job in enumerate(jobs, 1):
        rows.append(_measure_row(job, adapters[job.adapter], bounds[job.adapter]))
        if progress is not None:
            progress(done, len(jobs))
    sizes = {label: [row.bytes for row in rows if row.adapter == label] for label in adapters}
    return Comparison(
        rows=[row.model_copy(update={"equal_bytes": _fit_others(row, rows)}) for row in rows],
        bounds={label: _bound_points(bounds[label], sizes[label]) for label in adapters},
    )


def _jobs(
    adapters: Mapping[str, Adapter],
    bits: Sequence[float],
    methods: Sequence[str],
    baselines: Sequence[Baseline],
) -> Iterator[_Job]:
    for label in adapters:
        for width in bits:
            for method in _methods_of_width(width, methods):
                yield _Job(label, method, width)
        for baseline in baselines:
            yield _Job(label, baseline, baseline.bits)


def _methods_of_width(width: float, methods: Sequence[str]) -> Sequence[str]:
    """Returns the methods that have such a width.

    Raises:
        KronqError: There is none.
    """
    if width == FLOAT_BITS:
        return ("fp16",)
    able = [method for method in methods if method == "compact" or width in WIDTHS]
    if not able:
        raise ArgumentError(
            "no method has such a width",
            found=f"{width:g}",
            expected=f"some of {(FLOAT_BITS, *WIDTHS)}",
            hint="compact takes any",
        )
    return able


def _measure_row(job: _Job, adapter: Adapter, bound: GaussianBound) -> ComparisonRow:
    fields = {"adapter": job.adapter, "family": adapter.family, "bits": job.bits}
    if isinstance(job.method, str):
        quantized = quantize(adapter, config_for(job.method, job.bits))
        total = measure(adapter, quantized, bound=bound).total
        fields |= {"method": job.method}
    else:
        file = job.method.run(adapter)
        total = measure(adapter, file.adapter, bound=bound).total
        total = _resize(total, adapter, file.nbytes, bound)
        fields |= {"method": job.method.name, "source": "baseline", "how": job.method.how}
    return ComparisonRow.model_validate({**total.model_dump(), **fields})


def _resize(
    total: TotalStatistics, adapter: Adapter, nbytes: int, bound: GaussianBound
) -> TotalStatistics:
    """Returns the statistics for another tool's file of ``nbytes``, per trained parameter."""
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


def _bound_points(bound: GaussianBound, sizes: Sequence[int]) -> list[BoundPoint]:
    """Returns the bound from the smallest to the largest file, at sizes of equal ratio."""
    if not sizes:
        return []
    spaced = np.geomspace(min(sizes), max(sizes), BOUND_POINTS)
    return [
        BoundPoint(bytes=size, snr_db=bound.snr_db(8.0 * size))
        for size in sorted({round(size) for size in spaced.tolist()})
    ]


def _fit_others(
    row: ComparisonRow, rows: Sequence[ComparisonRow]
) -> dict[str, EqualBytesFit | None]:
    labels = {other.adapter for other in rows} - {row.adapter}
    return {label: _best_fit(rows, label, row.bytes) for label in sorted(labels)}


def _best_fit(rows: Sequence[ComparisonRow], adapter: str, size: int) -> EqualBytesFit | None:
    fitting = [
        row
        for row in rows
        if row.source == "kronq" and row.adapter == adapter and row.bytes <= size
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda row: row.relative_error)
    return EqualBytesFit.model_validate(best.model_dump(include=set(EqualBytesFit.model_fields)))
