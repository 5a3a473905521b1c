"""Measurement of a quantized adapter: its size and its error, layer by layer and in total."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from kronq import __version__
from kronq.errors import MismatchError, check_type
from kronq.io.blas import small_matrices
from kronq.io.threads import map_large
from kronq.model.activation_norms import projected_activation_norms
from kronq.model.adapter import Adapter, check_finite
from kronq.model.delta import Delta
from kronq.model.matrix import Float
from kronq.model.other_parts import other_parts
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.model.shared_bases import share_bases
from kronq.model.spectral_norm import spectral_norm
from kronq.model.squared_norms import SquaredNorms, squared_norms_in_bases
from kronq.packed import packed_size
from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.checks import check_same_layers, check_second_moments
from kronq.report.code_statistics import CodeStatistics, count_codes, merge_histograms
from kronq.report.coding_cost import coding_costs, round_to_bytes
from kronq.report.error_note import error_note
from kronq.report.models import CalibrationData, CodeHistogram, LayerStatistics, TotalStatistics
from kronq.report.report import Report
from kronq.report.statistics import LayerSums, add_statistics, relative_norm, statistics_fields
from kronq.report.task import SearchResult
from kronq.units import six_digits


@small_matrices()
def measure(
    reference: Adapter,
    quantized: Adapter,
    *,
    second_moments: SecondMoments | None = None,
    bound: GaussianBound | None = None,
    task: SearchResult | None = None,
) -> Report:
    """Measures what a quantized adapter lost, exactly, layer by layer.

    The bytes of the total are those of the packed file with this error in its manifest.

    Args:
        reference: The adapter as trained.
        quantized: The adapter to measure; any adapter of the same layers and shapes.
        second_moments: Second moments of every layer, from ``calibrate``; without them there is
            no activation error.
        bound: ``gaussian_bound(reference)``, if at hand already.
        task: Result of the search that chose the file (``smallest(…).result``), which the report
            then begins with.

    Raises:
        FormatError: A layer has values that are not finite.
        MismatchError: The layers or shapes differ, a layer is zero in ``reference`` alone, so that
            no relative error exists, or second moments lack a layer.

    Example:
        >>> report = kronq.measure(adapter, kronq.quantize(adapter))
        >>> print(report.total.snr_db)
    """
    check_type("reference", reference, Adapter)
    check_type("quantized", quantized, Adapter)
    check_same_layers(reference, quantized)
    check_finite(reference)
    check_finite(quantized)
    if second_moments is not None:
        check_type("second_moments", second_moments, SecondMoments)
        check_second_moments(reference, second_moments)
    layers = _measure_layers(reference, quantized, second_moments)
    total = _total(layers.values(), reference, quantized, bound)
    recipe = asdict(quantized.recipe) if quantized.recipe else {}
    for absent in ("relative_error", "task"):
        recipe.pop(absent, None)
    return Report(
        **recipe,
        task=task,
        error_note=error_note(
            recipe.get("method"), recipe.get("refit"), total.relative_error, total.cosine
        ),
        kronq_version=__version__,
        source=str(reference.origin.path) if reference.origin.path else None,
        family=reference.family,
        base_model=reference.origin.base_model,
        calibration=_calibration_data(second_moments),
        other_parts=other_parts(quantized),
        total=total,
        layers=[_layer_statistics(name, reference, quantized, s) for name, s in layers.items()],
        histograms=_histograms(layer.codes for layer in layers.values()),
    )


def with_error(adapter: Adapter, relative_error: float) -> Adapter:
    """Returns a quantized adapter with its error in the recipe, as the file states it."""
    if adapter.recipe is None:
        return adapter
    return replace(
        adapter, recipe=replace(adapter.recipe, relative_error=six_digits(relative_error))
    )


def _measure_layers(
    reference: Adapter, quantized: Adapter, second_moments: SecondMoments | None
) -> dict[str, LayerSums]:
    costs = coding_costs(quantized)
    sizes = dict(zip(costs, round_to_bytes([*costs.values()]), strict=True))

    def measure_one(name: str) -> LayerSums:
        moment = None if second_moments is None else second_moments[name]
        size = sizes[name], costs[name]
        return _measure_layer(name, reference[name], quantized[name], moment, size)

    values = reference.parameters / len(reference)
    return dict(zip(reference, map_large(measure_one, reference, values=values), strict=True))


def _measure_layer(
    name: str, ref: Delta, new: Delta, moment: LayerMoments | None, size: tuple[int, float]
) -> LayerSums:
    """Measures one layer whose size is given in whole bytes and in bits."""
    bases = share_bases(ref, new, keep_bases=moment is not None)
    weight = squared_norms_in_bases(bases)
    if weight.reference == 0 and weight.error > 0:
        raise MismatchError("the layer is zero in one adapter and not in the other", layer=name)
    activation = loss = None
    if moment is not None:
        inputs_only = replace(moment, outputs=None)
        activation = _reference_and_error(projected_activation_norms(bases, inputs_only))
        if moment.outputs is not None:
            loss = _reference_and_error(projected_activation_norms(bases, moment))
    spectral_error = spectral_norm(bases.error) if weight.error else 0.0
    return LayerSums(
        parameters=new.parameters,
        bytes=size[0],
        bytes_before=ref.nbytes,
        bits=size[1],
        weight=weight,
        spectral=(spectral_norm(bases.reference), spectral_error),
        activation=activation,
        loss=loss,
        codes=count_codes(new),
    )


def _reference_and_error(norms: SquaredNorms) -> tuple[float, float]:
    return norms.reference, norms.error


def _layer_statistics(
    name: str, reference: Adapter, quantized: Adapter, sums: LayerSums
) -> LayerStatistics:
    ref, new, recipe = reference[name], quantized[name], quantized.recipe
    requested_bits = recipe.bits_for(name) if recipe else 16
    return LayerStatistics.model_validate(
        {
            "name": name,
            "shape": ref.shape,
            "rank": ref.rank,
            "bits": max(matrix.bits for matrix in new.b.matrices),
            "norm": math.sqrt(sums.weight.reference),
            "spectral_norm": sums.spectral[0],
            "activation_norm": None if sums.activation is None else math.sqrt(sums.activation[0]),
            "loss_norm": None if sums.loss is None else math.sqrt(sums.loss[0]),
            "codes": sums.codes.codes,
            "kept_float": requested_bits < 16 and isinstance(new.b.left, Float),
            **statistics_fields(sums),
        }
    )


def _total(
    layers: Iterable[LayerSums],
    reference: Adapter,
    quantized: Adapter,
    bound: GaussianBound | None,
) -> TotalStatistics:
    sums = add_statistics(layers)
    error = relative_norm(sums.weight.error, sums.weight.reference) or 0.0
    size = packed_size(with_error(quantized, error))
    before = reference.origin.file_bytes or reference.nbytes
    fields = statistics_fields(replace(sums, bytes=size, bytes_before=before, bits=8.0 * size))
    return TotalStatistics(**fields, **_bound_fields(fields, reference, bound))


def _bound_fields(
    fields: Mapping[str, Any], reference: Adapter, bound: GaussianBound | None
) -> dict[str, Any]:
    error = fields["relative_error"]
    if not error:
        return {"bound_snr_db": None, "bits_above_bound": None}
    bound = gaussian_bound(reference) if bound is None else bound
    needed = bound.bits(error) / fields["parameters"]
    return {
        "bound_snr_db": bound.snr_db(8 * fields["bytes"]),
        "bits_above_bound": fields["bits_per_parameter"] - needed,
    }


def _calibration_data(second_moments: SecondMoments | None) -> CalibrationData | None:
    if second_moments is None:
        return None
    return CalibrationData(
        source=second_moments.source,
        tokens=second_moments.tokens,
        gradients=second_moments.two_sided,
    )


def _histograms(layers: Iterable[CodeStatistics]) -> list[CodeHistogram]:
    return [
        CodeHistogram(kind=kind, codes=sorted(counts), counts=[counts[c] for c in sorted(counts)])
        for kind, counts in merge_histograms(layers).items()
    ]
