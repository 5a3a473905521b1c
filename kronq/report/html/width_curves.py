"""Error over size of the methods that a file may be compared with, estimated on some layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from kronq.errors import KronqError
from kronq.io.blas import small_matrices
from kronq.model.adapter import Adapter
from kronq.quantization.compact.sketch import sketch
from kronq.quantization.config_names import config_for
from kronq.quantization.error_budget import relative_error
from kronq.quantization.file_size import file_size
from kronq.quantization.quantize import quantize
from kronq.report.comparison_models import Comparison
from kronq.report.groups import group_layers
from kronq.report.models import LayerStatistics
from kronq.report.report import Report
from kronq.trellis.stream import encode_layers

WIDTHS = (8, 4, 3, 2)
COMPACT_BPW = (4, 2, 1, 0.5)
"""Bits per weight of entropy-coded files."""
_SAMPLE = 100_000
"""Parameters that curves are estimated on, where the adapter has more."""


@dataclass(frozen=True)
class CurvePoint:
    """Size and error of one method at one setting.

    Attributes:
        method: Method of kronq, or name of another tool and its setting.
        bits: Bits that were asked for.
        nbytes: Bytes of the whole file.
        error: Relative error of ΔW.
        adapter: The adapter's label, where several are compared.
        baseline: Whether it is another tool's.
    """

    method: str
    bits: float
    nbytes: int
    error: float
    adapter: str = ""
    baseline: bool = False


@dataclass(frozen=True)
class WidthCurves:
    """Curves of an adapter.

    Attributes:
        points: Their points.
        layers: How many layers were quantized for them.
        of: How many layers the adapter has.
    """

    points: tuple[CurvePoint, ...]
    layers: int
    of: int


def comparison_points(comparison: Comparison) -> list[CurvePoint]:
    """Returns the points of a comparison."""
    labels = {row.adapter for row in comparison.rows}
    return [
        CurvePoint(
            method=row.method,
            bits=row.bits,
            nbytes=row.bytes,
            error=row.relative_error,
            adapter=row.adapter if len(labels) > 1 else "",
            baseline=row.source == "baseline",
        )
        for row in comparison.rows
    ]


@small_matrices()
def compare_widths(
    adapter: Adapter,
    report: Report,
    progress: Callable[[int, int], None] | None = None,
) -> WidthCurves:
    """Estimates the curves of ``native``, ``compact`` and the file's own method.

    Large adapters are sampled: layers of every kind are quantized, evenly spaced by the norm of ΔW,
    and the size of the others is taken to be in proportion.

    Args:
        adapter: The adapter as trained.
        report: Report of the file, for its method and its layers' errors.
        progress: Called with (measurements done, measurements in all).
    """
    names = _sample_layers(report.layers)
    sample = replace(adapter, layers={name: adapter[name] for name in names})
    headers: dict[str, int] = {}
    jobs: list[tuple[str, float]] = [("native", bits) for bits in WIDTHS]
    jobs += [("compact", bpw) for bpw in COMPACT_BPW]
    if report.method in ("balanced", "rtn"):
        jobs += [(report.method, bits) for bits in WIDTHS]
    points = []
    for done, (method, bits) in enumerate(jobs, 1):
        try:
            points.append(_measure_point(sample, adapter.parameters, method, bits, headers))
        except KronqError:  # smaller than a header alone
            continue
        finally:
            if progress is not None:
                progress(done, len(jobs))
    return WidthCurves(tuple(points), len(names), len(adapter))


def _sample_layers(layers: Iterable[LayerStatistics]) -> list[str]:
    """Returns layers of every kind, evenly spaced by their norms, in the adapter's order."""
    layers = list(layers)
    stride = max(1, math.ceil(sum(layer.parameters for layer in layers) / _SAMPLE))
    chosen = set()
    for kind in group_layers(layers).values():
        first = min(stride, len(kind)) // 2
        by_norm = sorted(kind, key=lambda layer: layer.norm)
        chosen |= {layer.name for layer in by_norm[first::stride]}
    return [layer.name for layer in layers if layer.name in chosen]


def _measure_point(
    sample: Adapter, parameters: int, method: str, bits: float, headers: dict[str, int]
) -> CurvePoint:
    """Measures one method at one setting; ``headers`` remembers the bytes of its header."""
    if method == "compact":
        made = sketch(sample, bits)
        stream = encode_layers([*made.values()])
        codes = 0 if stream is None else len(stream.data)
    else:
        made = quantize(sample, config_for(method, bits))
        codes = sum(delta.nbytes for delta in made.values())
    if method not in headers:
        headers[method] = file_size(made) - codes
    nbytes = headers[method] + round(codes * parameters / sample.parameters)
    return CurvePoint(method, bits, nbytes, relative_error(sample, made))
