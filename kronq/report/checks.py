"""What can be compared at all."""

from __future__ import annotations

from kronq.errors import MismatchError, listing
from kronq.model.adapter import Adapter
from kronq.model.second_moments import SecondMoments


def check_alike(reference: Adapter, approximation: Adapter) -> None:
    """Refuses two adapters of different layers or shapes.

    Raises:
        MismatchError: They have.
    """
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


def check_seen(reference: Adapter, moments: SecondMoments) -> None:
    """Refuses moments of other layers or shapes than the adapter's.

    Raises:
        MismatchError: They are.
    """
    missing = reference.keys() - moments.keys()
    if missing:
        raise MismatchError("calibration did not see every layer", found=listing(missing))
    for name, delta in reference.items():
        moment, (rows, cols) = moments[name], delta.shape
        found = [m.shape for m in (moment.inputs, moment.outputs) if m is not None]
        expected = [(cols, cols), (rows, rows)][: len(found)]
        if found != expected:
            raise MismatchError(
                "calibration saw a layer of another shape",
                layer=name,
                found=", ".join(str(list(shape)) for shape in found),
                expected=", ".join(str(list(shape)) for shape in expected),
            )
