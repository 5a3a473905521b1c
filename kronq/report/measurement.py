"""The error report: what quantizing cost, layer by layer and in all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from kronq import __version__
from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.layer_names import describe_names, name_template
from kronq.model.matrix import Float
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.model.shared_bases import share_bases
from kronq.model.spectral_norm import spectral_norm
from kronq.model.squared_norms import SquaredNorms, squared_norms_in_bases
from kronq.packed import pack
from kronq.report.activation_error import seen_energies
from kronq.report.bits_spent import bits_spent, whole_bytes
from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.checks import check_alike, check_seen
from kronq.report.code_statistics import CodeFigures, code_figures, merged
from kronq.report.models import (
    SCHEMA_VERSION,
    Calibration,
    CodeCounts,
    Figures,
    LayerReport,
    Report,
    Total,
)
from kronq.report.statistics import Sums, added, figures, relative, snr_db, sums_of

__all__ = [
    "SCHEMA_VERSION",
    "Figures",
    "LayerReport",
    "Report",
    "Total",
    "grouped",
    "layer_bits",
    "measure",
    "snr_db",
    "summed",
    "worst_first",
]


def measure(
    reference: Adapter,
    approximation: Adapter,
    *,
    moments: SecondMoments | None = None,
    bound: GaussianBound | None = None,
) -> Report:
    """What ``approximation`` lost of ``reference``, exactly, layer by layer.

    The total's bytes are those of the packed file with this very error in its manifest.

    Args:
        reference: What is compared to.
        approximation: What is judged.
        moments: What calibration saw of every layer; without it there is no activation error.
        bound: ``gaussian_bound(reference)``, where it is at hand already.

    Raises:
        MismatchError: The two do not have the same layers and shapes, a layer is zero in
            ``reference`` alone, so that no relative error can be told, or calibration did not see
            every layer.
    """
    check_alike(reference, approximation)
    if moments is not None:
        check_seen(reference, moments)
    spent = bits_spent(approximation)
    sizes = dict(zip(spent, whole_bytes([*spent.values()]), strict=True))
    parts: dict[str, Sums] = {}
    for name, ref in reference.items():
        moment = None if moments is None else moments[name]
        parts[name] = _sums(name, ref, approximation[name], moment, spent[name], sizes[name])
    whole = added(parts.values())
    error = relative(whole.weight.error, whole.weight.reference) or 0.0
    size = len(pack(_with_error(approximation, error)))
    before = reference.origin.file_bytes or reference.nbytes
    told = figures(replace(whole, bytes=size, bytes_before=before, bits=8.0 * size))
    how = asdict(approximation.recipe) if approximation.recipe else {}
    for told_elsewhere in ("relative_error", "task"):
        how.pop(told_elsewhere, None)
    return Report(
        **how,
        kronq_version=__version__,
        source=str(reference.origin.path) if reference.origin.path else None,
        family=reference.family,
        base_model=reference.origin.base_model,
        calibration=_calibration(moments),
        total=_total(told, reference, bound),
        layers=[_layer(name, reference[name], approximation, part) for name, part in parts.items()],
        histograms=_histograms(part.codes for part in parts.values()),
    )


def _with_error(adapter: Adapter, relative_error: float) -> Adapter:
    if adapter.recipe is None:
        return adapter
    return replace(adapter, recipe=replace(adapter.recipe, relative_error=relative_error))


def worst_first(layers: Iterable[LayerReport]) -> list[LayerReport]:
    """Layers by falling relative error."""
    return sorted(layers, key=lambda layer: -layer.relative_error)


def grouped(layers: Iterable[LayerReport]) -> dict[str, list[LayerReport]]:
    """Layers that differ only in a number, under the name they share, worst group first."""
    groups: dict[str, list[LayerReport]] = {}
    for layer in layers:
        groups.setdefault(f"{name_template(layer.name)} {layer.shape}", []).append(layer)
    named = {describe_names([m.name for m in g]): g for g in groups.values()}
    return dict(sorted(named.items(), key=lambda item: -summed(item[1]).relative_error))


def summed(layers: Iterable[LayerReport]) -> Figures:
    """The figures of several layers together, as of one; bytes without any header."""
    return Figures.model_validate(figures(added(sums_of(layer) for layer in layers)))


def layer_bits(delta: Delta) -> int:
    """Bits of the codes, or floats, that B is stored in."""
    return max(m.bits for m in delta.b.matrices)


def _sums(
    name: str, ref: Delta, new: Delta, moment: LayerMoments | None, bits: float, size: int
) -> Sums:
    pair = share_bases(ref, new, keep_bases=moment is not None)
    weight = squared_norms_in_bases(pair)
    if weight.reference == 0 and weight.error > 0:
        raise MismatchError("the layer is zero in one adapter and not in the other", layer=name)
    activation = loss = None
    if moment is not None:
        activation = _ends(seen_energies(pair, replace(moment, outputs=None)))
        loss = None if moment.outputs is None else _ends(seen_energies(pair, moment))
    wrong = spectral_norm(pair.error) if weight.error else 0.0
    return Sums(
        new.parameters, size, ref.nbytes, bits, weight,
        (spectral_norm(pair.reference), wrong), activation, loss, code_figures(new),
    )  # fmt: skip


def _ends(energy: SquaredNorms) -> tuple[float, float]:
    return energy.reference, energy.error


def _layer(name: str, ref: Delta, approximation: Adapter, part: Sums) -> LayerReport:
    new, recipe = approximation[name], approximation.recipe
    asked = recipe.bits_for(name) if recipe else 16
    return LayerReport.model_validate(
        {
            "name": name,
            "shape": ref.shape,
            "rank": ref.rank,
            "bits": layer_bits(new),
            "norm": math.sqrt(part.weight.reference),
            "spectral_norm": part.spectral[0],
            "activation_norm": None if part.activation is None else math.sqrt(part.activation[0]),
            "loss_norm": None if part.loss is None else math.sqrt(part.loss[0]),
            "codes": part.codes.codes,
            "kept_float": asked < 16 and isinstance(new.b.left, Float),
            **figures(part),
        }
    )


def _total(told: Mapping[str, Any], reference: Adapter, bound: GaussianBound | None) -> Total:
    error = told["relative_error"]
    if not error:
        return Total(**told, bound_snr_db=None, bits_above_bound=None)
    bound = gaussian_bound(reference) if bound is None else bound
    needed = bound.bits(error) / told["parameters"]
    return Total(
        **told,
        bound_snr_db=bound.snr_db(8 * told["bytes"]),
        bits_above_bound=told["bits_per_parameter"] - needed,
    )


def _calibration(moments: SecondMoments | None) -> Calibration | None:
    if moments is None:
        return None
    return Calibration(source=moments.source, tokens=moments.tokens, gradients=moments.two_sided)


def _histograms(parts: Iterable[CodeFigures]) -> list[CodeCounts]:
    return [
        CodeCounts(kind=kind, codes=sorted(counts), counts=[counts[c] for c in sorted(counts)])
        for kind, counts in merged(parts).items()
    ]
