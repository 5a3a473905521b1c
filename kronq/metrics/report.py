"""The error report: one model, written as JSON (schema in formats/) and shown as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kronq.adapter import Adapter
from kronq.delta import Delta
from kronq.errors import MismatchError, listing
from kronq.matrix import Float
from kronq.metrics.bound import GaussianBound, gaussian_bound
from kronq.metrics.weight import Energies, energies
from kronq.naming import template, together
from kronq.packed import pack

SCHEMA_VERSION = 1


class Figures(BaseModel):
    """What is told of a layer, and of all of them."""

    model_config = ConfigDict(frozen=True)

    parameters: int = Field(description="Trained weights that are stored.")
    bytes: int = Field(
        description="A layer: its codes, scales and floats. The total: the whole file on disk."
    )
    bytes_before: int = Field(
        description="The same for the adapter that was measured against, as it is stored."
    )
    bits_per_parameter: float = Field(description="8 · bytes / parameters.")
    relative_error: float = Field(description="‖ΔW − ΔŴ‖ / ‖ΔW‖, Frobenius; 0 where ΔW is zero.")
    snr_db: float | None = Field(description="−20·log10(relative_error); null without any error.")
    energy_kept: float = Field(description="‖ΔŴ‖² / ‖ΔW‖²; 1 where ΔW is zero.")


class Total(Figures):
    """All layers together, as one file."""

    bound_snr_db: float | None = Field(
        description="The SNR of ΔW that an ideal code of Gaussian factors with the same singular "
        "components could reach in as many bits; null without any error."
    )
    bits_above_bound: float | None = Field(
        description="bits_per_parameter, less those that such a code needs for the same relative "
        "error; null without any error."
    )


class LayerReport(Figures):
    """One layer."""

    name: str
    shape: tuple[int, int] = Field(description="[d_out, d_in]")
    rank: int = Field(description="Inner dimension of B = B1·B2.")
    bits: int = Field(description="Bits of B's codes; 16 or 32 where B stayed floating point.")
    norm: float = Field(description="‖ΔW‖, Frobenius, of the adapter that was measured against.")
    kept_float: bool = Field(description="Codes were asked for and would not have been smaller.")


class Report(BaseModel):
    """What quantizing an adapter cost."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    source: str | None = Field(default=None, description="The adapter that was measured against.")
    family: str = Field(description="kron or lora.")
    base_model: str | None = None
    method: str | None = None
    bits: int | float | None = Field(default=None, description="The bits that were asked for.")
    axis: str | None = None
    group_size: int | None = None
    a_bits: int | None = None
    layer_bits: dict[str, int] = Field(default_factory=dict)
    total: Total
    layers: list[LayerReport]


def measure(
    reference: Adapter, approximation: Adapter, *, bound: GaussianBound | None = None
) -> Report:
    """What ``approximation`` lost of ``reference``, exactly, layer by layer.

    The total's bytes are those of the packed file with this very error in its manifest, as
    ``stamp`` makes it.

    Args:
        reference: What is compared to.
        approximation: What is judged.
        bound: ``gaussian_bound(reference)``, where it is at hand already.

    Raises:
        MismatchError: The two do not have the same layers and shapes, or a layer is zero in
            ``reference`` alone, so that no relative error can be told.
    """
    _check(reference, approximation)
    pairs = [(reference[name], approximation[name]) for name in reference]
    found = [energies(*pair) for pair in pairs]
    for name, energy in zip(reference, found, strict=True):
        if energy.reference == 0 and energy.error > 0:
            raise MismatchError("the layer is zero in one adapter and not in the other", layer=name)
    layers = [
        _layer(name, ref, new, energy, approximation)
        for name, (ref, new), energy in zip(reference, pairs, found, strict=True)
    ]
    whole = Energies(
        sum(e.reference for e in found),
        sum(e.approximation for e in found),
        sum(e.error for e in found),
    )
    size = len(pack(stamp(approximation, _relative(whole))))
    before = reference.origin.file_bytes or reference.nbytes
    how = asdict(approximation.recipe) if approximation.recipe else {}
    for told_elsewhere in ("relative_error", "task"):
        how.pop(told_elsewhere, None)
    return Report(
        **how,
        source=str(reference.origin.path) if reference.origin.path else None,
        family=reference.family,
        base_model=reference.origin.base_model,
        total=_total(
            _figures(approximation.parameters, size, before, whole),
            gaussian_bound(reference) if bound is None else bound,
        ),
        layers=layers,
    )


def stamp(adapter: Adapter, relative_error: float) -> Adapter:
    """The adapter with its measured error in its recipe, which goes into the packed file."""
    if adapter.recipe is None:
        return adapter
    return replace(adapter, recipe=replace(adapter.recipe, relative_error=relative_error))


def snr_db(relative_error: float) -> float | None:
    """Signal-to-noise ratio in dB; None when there is no noise."""
    return -20 * math.log10(relative_error) if relative_error > 0 else None


def worst_first(layers: Iterable[LayerReport]) -> list[LayerReport]:
    """Layers by falling relative error."""
    return sorted(layers, key=lambda layer: -layer.relative_error)


def grouped(layers: Iterable[LayerReport]) -> dict[str, list[LayerReport]]:
    """Layers that differ only in a number, under the name they share, worst group first."""
    groups: dict[str, list[LayerReport]] = {}
    for layer in layers:
        groups.setdefault(f"{template(layer.name)} {layer.shape}", []).append(layer)
    named = {together([m.name for m in g]): g for g in groups.values()}
    return dict(sorted(named.items(), key=lambda item: -summed(item[1]).relative_error))


def summed(layers: Iterable[LayerReport]) -> Figures:
    """The figures of several layers together, as of one; bytes without any header."""
    chosen = list(layers)
    energy = Energies(
        reference=sum(m.norm**2 for m in chosen),
        approximation=sum(m.energy_kept * m.norm**2 for m in chosen),
        error=sum((m.relative_error * m.norm) ** 2 for m in chosen),
    )
    return Figures.model_validate(
        _figures(
            sum(m.parameters for m in chosen),
            sum(m.bytes for m in chosen),
            sum(m.bytes_before for m in chosen),
            energy,
        )
    )


def layer_bits(delta: Delta) -> int:
    """Bits of the codes, or floats, that B is stored in."""
    return max(m.bits for m in delta.b.matrices)


def _layer(name: str, ref: Delta, new: Delta, energy: Energies, adapter: Adapter) -> LayerReport:
    asked = adapter.recipe.bits_for(name) if adapter.recipe else 16
    return LayerReport.model_validate(
        {
            "name": name,
            "shape": ref.shape,
            "rank": ref.rank,
            "bits": layer_bits(new),
            "norm": math.sqrt(energy.reference),
            "kept_float": asked < 16 and isinstance(new.b.left, Float),
            **_figures(new.parameters, new.nbytes, ref.nbytes, energy),
        }
    )


def _figures(parameters: int, size: int, before: int, energy: Energies) -> dict[str, Any]:
    error = _relative(energy)
    return {
        "parameters": parameters,
        "bytes": size,
        "bytes_before": before,
        "bits_per_parameter": 8 * size / parameters,
        "relative_error": error,
        "snr_db": snr_db(error),
        "energy_kept": energy.approximation / energy.reference if energy.reference else 1.0,
    }


def _total(figures: dict[str, Any], bound: GaussianBound) -> Total:
    parameters, error = figures["parameters"], figures["relative_error"]
    at_bound = bound.snr_db(8 * figures["bytes"]) if error else None
    needed = bound.bits(error) / parameters if error else None
    above = None if needed is None else figures["bits_per_parameter"] - needed
    return Total(**figures, bound_snr_db=at_bound, bits_above_bound=above)


def _relative(energy: Energies) -> float:
    return math.sqrt(energy.error / energy.reference) if energy.reference else 0.0


def _check(reference: Adapter, approximation: Adapter) -> None:
    differing = reference.keys() ^ approximation.keys()
    if differing:
        raise MismatchError("the adapters have different layers", found=listing(differing))
    for name, delta in reference.items():
        other = approximation[name]
        if (delta.shape, delta.a.shape) != (other.shape, other.a.shape):
            raise MismatchError(
                "the adapters have different shapes",
                layer=name,
                found=f"ΔW {list(other.shape)}, A {list(other.a.shape)}",
                expected=f"ΔW {list(delta.shape)}, A {list(delta.a.shape)}",
            )
