"""Loss over bytes: who is on the front, and how far families are apart at equal bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kronq.study.summary import Cell


def is_on_front(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Returns whether no other file of the same task is as small and has less loss."""
    if cell.bytes is None:
        return False
    return not any(
        other.bytes is not None
        and (other.trained_on, other.task) == (cell.trained_on, cell.task)
        and other.bytes <= cell.bytes
        and other.nll < cell.nll
        for other in cells
    )


def bjontegaard(
    curve: Sequence[tuple[float, float]], reference: Sequence[tuple[float, float]]
) -> float | None:
    """Returns the mean difference of two curves' losses over the logarithm of bytes.

    As Bjøntegaard's delta (ITU-T VCEG-M33), with straight lines between the points of each curve's
    front instead of polynomials.

    Args:
        curve: (bytes, loss).
        reference: (bytes, loss).

    Returns:
        Mean of curve − reference where both have points; None where they do not overlap.
    """
    fronts = [_front(curve), _front(reference)]
    if any(len(front) < 2 for front in fronts):
        return None
    low, high = max(f[0][0] for f in fronts), min(f[-1][0] for f in fronts)
    if not low < high:
        return None
    at = np.linspace(np.log(low), np.log(high), 256)
    one, other = (
        np.interp(at, np.log([b for b, _ in front]), [loss for _, loss in front])
        for front in fronts
    )
    return float(np.mean(one - other))


def _front(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that no smaller one is as good as, by rising bytes."""
    front: list[tuple[float, float]] = []
    for nbytes, loss in sorted(curve):
        if not front or (loss < front[-1][1] and nbytes > front[-1][0]):
            front.append((nbytes, loss))
    return front


def family_deltas(
    cells: Sequence[Cell], reference: str
) -> dict[tuple[str, str, str], float | None]:
    """Returns (curve, trained on, task) → Bjøntegaard delta of the NLL against the reference."""
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for cell in cells:
        if cell.bytes is not None:
            key = (cell.curve, cell.trained_on, cell.task)
            curves.setdefault(key, []).append((cell.bytes, cell.nll))
    return {
        (name, start, task): bjontegaard(curve, curves.get((reference, start, task), []))
        for (name, start, task), curve in curves.items()
    }
