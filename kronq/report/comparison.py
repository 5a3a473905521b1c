"""Comparison of adapters over widths, at equal bytes, and with the files of other tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kronq.errors import ArgumentError
from kronq.io.blas import small_matrices
from kronq.model.adapter import Adapter
from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.comparison_models import (
    Baseline,
    BoundPoint,
    Comparison,
    ComparisonRow,
    EqualBytesFit,
    Verdict,
)
from kronq.report.comparison_settings import METHODS, Setting, make_files, plan_files
from kronq.report.equal_bytes import Entry, best_fit, contests
from kronq.report.measurement import measure
from kronq.report.models import TotalStatistics

BOUND_POINTS = 40
"""Points of each adapter's bound."""


@small_matrices()
def compare(
    adapters: Mapping[str, Adapter],
    bits: Sequence[float] = (8, 4, 2),
    *,
    sizes: Sequence[int | str] = (),
    methods: Sequence[str] = METHODS,
    baselines: Sequence[Baseline] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Quantizes every adapter as ``quantize`` does, and measures each result.

    Args:
        adapters: Label → adapter.
        bits: Widths; 16 is float16, whatever the method. For ``compact`` any number of bits per
            weight, counted in the adapter with fewest weights: the others get as many bytes, so
            that their files are of one size.
        sizes: Sizes of whole files, for ``native`` and ``compact``: bytes, or texts such as
            ``"150KB"``.
        methods: Some of ``native``, ``compact``, ``balanced`` and ``rtn``.
        baselines: Other tools, from ``benchmarks.baselines.installed()``.
        progress: Called with (measurements done, measurements in all).

    Raises:
        KronqError: No method has one of the widths, or no file can be made; and as ``quantize``
            does.

    Example:
        >>> adapters = {"lokr": kronq.load("my-lokr"), "lora": kronq.load("my-lora")}
        >>> print(kronq.compare(adapters, (4, 2)))
    """
    settings = plan_files(adapters, bits, sizes, methods)
    bounds = {label: gaussian_bound(adapter) for label, adapter in adapters.items()}
    count = len(settings) + len(adapters) * len(baselines)
    rows: list[ComparisonRow] = []
    left_out: list[str] = []
    error: ArgumentError | None = None
    done = 0
    for label, adapter in adapters.items():
        own = [setting for setting in settings if setting.adapter == label]
        for setting, made in make_files(adapters, own):
            if isinstance(made, ArgumentError):
                error = made
                left_out.append(f"{label}, {setting.method}: {made}")
            else:
                rows.append(_measure_file(setting, adapter, made, bounds[label]))
            done = _count(progress, done, count)
        for baseline in baselines:
            rows.append(_measure_baseline(baseline, label, adapter, bounds[label]))
            done = _count(progress, done, count)
    if error is not None and not rows:
        raise error
    sizes_by_label = {label: [r.bytes for r in rows if r.adapter == label] for label in adapters}
    return Comparison(
        rows=[row.model_copy(update={"equal_bytes": _fit_others(row, rows)}) for row in rows],
        bounds={label: _bound_points(bounds[label], sizes_by_label[label]) for label in adapters},
        left_out=left_out,
        verdict=_verdict(rows),
    )


def _count(progress: Callable[[int, int], None] | None, done: int, count: int) -> int:
    if progress is not None:
        progress(done + 1, count)
    return done + 1


def _measure_file(
    setting: Setting, adapter: Adapter, quantized: Adapter, bound: GaussianBound
) -> ComparisonRow:
    total = measure(adapter, quantized, bound=bound).total
    fields = {
        "adapter": setting.adapter,
        "family": adapter.family,
        "method": setting.method,
        "bits": setting.bits,
        "given_bytes": setting.given(adapter.parameters),
    }
    return ComparisonRow.model_validate({**total.model_dump(), **fields})


def _measure_baseline(
    baseline: Baseline, label: str, adapter: Adapter, bound: GaussianBound
) -> ComparisonRow:
    file = baseline.run(adapter)
    total = measure(adapter, file.adapter, bound=bound).total
    total = _resize(total, adapter, file.nbytes, bound)
    fields = {
        "adapter": label,
        "family": adapter.family,
        "method": baseline.name,
        "bits": baseline.bits,
        "source": "baseline",
        "how": baseline.how,
    }
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


def _entries(rows: Sequence[ComparisonRow], *, by_adapter: bool) -> list[Entry]:
    """Returns the files of kronq's methods."""
    return [
        Entry(
            row.adapter if by_adapter else row.method,
            row.given_bytes or row.bytes,
            row.relative_error,
            index,
        )
        for index, row in enumerate(rows)
        if row.source == "kronq"
    ]


def _fit_others(
    row: ComparisonRow, rows: Sequence[ComparisonRow]
) -> dict[str, EqualBytesFit | None]:
    entries = _entries(rows, by_adapter=True)
    size = row.given_bytes or row.bytes
    found: dict[str, EqualBytesFit | None] = {}
    for label in sorted({other.adapter for other in rows} - {row.adapter}):
        best = best_fit((entry for entry in entries if entry.contestant == label), size)
        found[label] = None if best is None else _fit(rows[best.row])
    return found


def _fit(row: ComparisonRow) -> EqualBytesFit:
    return EqualBytesFit.model_validate(row.model_dump(include=set(EqualBytesFit.model_fields)))


def _verdict(rows: Sequence[ComparisonRow]) -> Verdict | None:
    """Returns who loses least at equal bytes: of the adapters, or of one adapter's methods."""
    by_adapter = len({row.adapter for row in rows}) > 1
    coded = [e for e in _entries(rows, by_adapter=by_adapter) if rows[e.row].method != "fp16"]
    if len({entry.contestant for entry in coded}) < 2:
        return None
    margins: dict[str, list[float]] = {}
    for contest in contests(coded):
        first, second = (rows[entry.row].snr_db for entry in contest.ranked[:2])
        if first is not None and second is not None:
            margins.setdefault(contest.ranked[0].contestant, []).append(first - second)
    ahead = dict(sorted(margins.items(), key=lambda item: -len(item[1])))
    return Verdict(between="adapters" if by_adapter else "methods", margins_db=ahead)
