"""From R alone back to a LoRA, with the bases that belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import numpy as np

from kronq.cores.frame import Frame
from kronq.cores.sources import BasisSource
from kronq.errors import MismatchError
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.frozen_bases import (
    SHORT_DIGEST,
    FrozenBases,
    FrozenBasis,
    describe_recipe,
    joint_digest,
)
from kronq.model.matrix import Float


def fold_cores(
    adapter: Adapter, source: BasisSource, *, progress: Progress | None = None
) -> Adapter:
    """Puts the frozen bases around R again: an ordinary LoRA.

    Args:
        adapter: With ``bases``; one without is returned as it is.
        source: Where the bases are.
        progress: Called with (layers done, layers in all).

    Raises:
        MismatchError: The source has other bases than the adapter's.
    """
    if adapter.bases is None:
        return adapter
    layers = dict(adapter.items())
    for done, (name, _, frame) in enumerate(find_frames(adapter, source), 1):
        core = adapter[name]
        up = frame.up @ core.b.float64()
        product = Product(Float(up.astype(np.float32)), Float(frame.down.astype(np.float32)))
        layers[name] = Delta(ONE, product, core.scale, product.shape)
        if progress is not None:
            progress(done, len(adapter.bases.layers))
    return replace(adapter, layers=layers, bases=None)


def find_frames(adapter: Adapter, source: BasisSource) -> Iterator[tuple[str, FrozenBasis, Frame]]:
    """Yields the bases of every layer that is R alone; only after the last are all of them right.

    Raises:
        MismatchError: The source has other bases than the adapter's.
    """
    bases = adapter.bases
    assert bases is not None  # noqa: S101
    _check_recipe(bases, source)
    digests = {}
    for name, basis in bases.layers.items():
        found, frame = source.basis(name, adapter[name].rank, basis.shape)
        digests[name] = found.digest
        if found.digest[:SHORT_DIGEST] != basis.digest[:SHORT_DIGEST]:
            _refuse(source, bases, name, found.digest.hex(), basis.digest.hex())
        yield name, found, frame
    joint = joint_digest(digests)
    if bases.digest is not None and joint != bases.digest:
        _refuse(source, bases, None, joint, bases.digest)


def _check_recipe(bases: FrozenBases, source: BasisSource) -> None:
    """Refuses bases that are made in another way, or of something else.

    Raises:
        MismatchError: They are.
    """
    if bases.recipe != source.recipe:
        raise MismatchError(
            "the adapter's frozen bases are others",
            path=source.path,
            found=describe_recipe(source.recipe),
            expected=bases.described,
            hint="give {basis} what the adapter was quantized with",
            code="other-base",
        )


def _refuse(
    source: BasisSource, bases: FrozenBases, layer: str | None, found: str, expected: str
) -> NoReturn:
    what = "bases" if bases.recipe is None else "weights"
    raise MismatchError(
        f"the {what} are not those that the adapter belongs to",
        path=source.path,
        layer=layer,
        found=f"SHA-256 {found[: len(expected)]}",
        expected=expected,
        hint=None
        if bases.recipe is None
        else "another base, or a copy in another dtype, has other singular vectors",
        code="other-base",
    )
