"""From a LoRA between frozen bases to R alone, where that gives the same ΔW."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kronq.cores.frame import Frame
from kronq.cores.sources import BasisSource
from kronq.errors import KronqWarning, MismatchError, check_type, listing
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.frozen_bases import FrozenBases, FrozenBasis, joint_digest
from kronq.model.matrix import Float

LARGEST_DIFFERENCE = 1e-3
"""Largest ‖ΔW − ΔW with the bases found‖ / ‖ΔW‖ with which a layer's bases are left out."""


@dataclass(frozen=True, eq=False)
class _Core:
    """One layer as R alone: its bases, C in them, and how far its ΔW is from the adapter's."""

    basis: FrozenBasis
    frame: Frame
    delta: Delta
    difference: float


def split_cores(
    adapter: Adapter,
    source: BasisSource,
    *,
    visit: Callable[[str, Frame], None] | None = None,
    progress: Progress | None = None,
) -> Adapter:
    """Takes the frozen bases out of an adapter: every layer is then R alone, in their frame.

    A layer whose ΔW differs by more than ``LARGEST_DIFFERENCE`` with the bases of ``source`` stays
    as it is, with its own, and a warning names it.

    Args:
        adapter: A LoRA-XS adapter as ``kronq.load`` reads it.
        source: Where its bases are found again.
        visit: Called with the name and frame of every layer whose bases are left out.
        progress: Called with (layers done, layers in all).

    Returns:
        An adapter whose layers are whole matrices C [r, r], with ``bases``. Its errors are those
        of ΔW: the frame is orthonormal.

    Raises:
        MismatchError: No layer's ΔW is the same, or the source lacks a layer.
    """
    check_type("adapter", adapter, Adapter)
    layers, bases, worst = dict(adapter.items()), {}, 0.0
    for done, (name, delta) in enumerate(adapter.items(), 1):
        core = _split(name, delta, source)
        if core is not None:
            worst = max(worst, core.difference)
            if core.difference <= LARGEST_DIFFERENCE:
                layers[name], bases[name] = core.delta, core.basis
                if visit is not None:
                    visit(name, core.frame)
        if progress is not None:
            progress(done, len(adapter))
    if not bases:
        raise MismatchError(
            "the adapter's frozen bases are not these",
            path=source.path,
            found=f"ΔW is {worst:.0%} off with them",
            expected=f"at most {LARGEST_DIFFERENCE:.1%}",
            hint="'kronq basis ADAPTER -o basis.safetensors' stores its own, for {basis}",
            code="other-base",
        )
    _warn_of_kept([name for name in layers if name not in bases], source)
    digest = joint_digest({name: basis.digest for name, basis in bases.items()})
    return replace(adapter, layers=layers, bases=FrozenBases(bases, digest, source.recipe))


def _split(name: str, delta: Delta, source: BasisSource) -> _Core | None:
    """Returns a layer as R alone; None if it is no LoRA, or its bases' signs are not settled."""
    left, right = delta.b.float32()
    if delta.a is not ONE or right is None or delta.rank > min(delta.shape):
        return None
    basis, frame = source.basis(name, delta.rank, delta.shape)
    if not frame.is_settled:
        return None
    b1, b2 = left.astype(np.float64), right.astype(np.float64)
    c = frame.core(b1, b2)
    difference = _difference(b1, b2, c, frame, made=source.recipe is not None)
    core = Product(Float(c.astype(np.float32)))
    return _Core(basis, frame, Delta(ONE, core, delta.scale, core.shape), difference)


def _difference(b1: F64, b2: F64, c: F64, frame: Frame, *, made: bool) -> float:
    """Returns the relative difference of ΔW with another A, and of what lies outside the frame.

    Bases that are made of the base again have to be the adapter's one by one: two that are turned
    into each other here may be turned otherwise on another machine.
    """
    gram = b1.T @ b1
    square = float(np.sum(gram * (b2 @ b2.T)))
    if square <= 0:
        return 0.0
    outside = max(0.0, square - float(np.vdot(c, c)))
    if made:
        signs = np.where(np.sum(frame.a * b2, axis=1) < 0, -1.0, 1.0)
        other = b2 - signs[:, None] * frame.a
        outside = max(outside, float(np.sum(gram * (other @ other.T))))
    return float(np.sqrt(outside / square))


def _warn_of_kept(kept: list[str], source: BasisSource) -> None:
    if kept:
        warnings.warn(
            KronqWarning(
                f"{source.path}: {len(kept):,} layers keep bases of their own, since ΔW is not the "
                f"same with these: {listing(kept).short}"
            ),
            stacklevel=3,
        )
