"""Checks that adapters and second moments have the same layers and shapes."""

from __future__ import annotations

from kronq.errors import MismatchError, listing
from kronq.model.adapter import Adapter
from kronq.model.plain import refuse_cores
from kronq.model.second_moments import SecondMoments


def check_same_layers(reference: Adapter, approximation: Adapter) -> None:
    """Refuses two adapters of different layers or shapes.

    Raises:
        MismatchError: The layers or the shapes differ.
    """
    if (reference.bases is None) != (approximation.bases is None):
        for adapter in (reference, approximation):
            refuse_cores(adapter, "comparing it with an adapter that has its bases")
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


def check_second_moments(reference: Adapter, second_moments: SecondMoments) -> None:
    """Refuses second moments that lack a layer of the adapter, or have another shape.

    Raises:
        MismatchError: A layer is missing, or has another shape.
    """
    missing = reference.keys() - second_moments.keys()
    if missing:
        raise MismatchError("calibration did not see every layer", found=listing(missing))
    for name, delta in reference.items():
        moment, (rows, cols) = second_moments[name], delta.shape
        shapes = [m.shape for m in (moment.inputs, moment.outputs) if m is not None]
        expected = [(cols, cols), (rows, rows)][: len(shapes)]
        if shapes != expected:
            raise MismatchError(
                "calibration saw a layer of another shape",
                layer=name,
                found=", ".join(str(list(shape)) for shape in shapes),
                expected=", ".join(str(list(shape)) for shape in expected),
            )
