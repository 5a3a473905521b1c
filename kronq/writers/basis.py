"""``kronq.write_basis``: frozen bases in one file for every LoRA-XS adapter that shares them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from kronq.cores.basis_file import write_basis_file
from kronq.cores.fold import find_frames
from kronq.cores.sources import BasisSource, ComputedBases, Pair, StoredBases
from kronq.errors import ArgumentError, StrPath, check_type
from kronq.io.files import check_output
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.model.layer_expressions import NameMatcher
from kronq.model.part import take_part
from kronq.packed.writer import check_packed_name
from kronq.readers.basis import folder_of, open_basis
from kronq.readers.peft_tuners.lora_xs import read_recipe

Wanted = Mapping[str, tuple[int, tuple[int, int]]]
"""Layer → rank and (d_out, d_in)."""
T = TypeVar("T")


def write_basis(
    source: StrPath,
    out: StrPath,
    *,
    adapter: Adapter | None = None,
    rank: int | None = None,
    only: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes the frozen bases of LoRA-XS adapters to one file, for all adapters that share them.

    Args:
        source: The base as a Hugging Face folder, or a LoRA-XS folder, whose own are taken.
        out: The file, which ends in ``.safetensors``.
        adapter: A base's bases are made for its layers, rank and settings.
        rank: Without an adapter, r of a base's bases; LoRA-XS's usual settings make them.
        only: A regular expression: layers in whose names it is found. Without an adapter and
            without it all matrices of numbered blocks.
        force: Overwrites an existing file.
        progress: Called with (layers done, layers in all).

    Returns:
        The file.

    Raises:
        ArgumentError: A base needs an adapter or a rank, or no layer has such a name.
        MismatchError: The base is quantized, or not the adapter's.
        OutputExistsError: ``out`` exists and ``force`` is not set.

    Example:
        >>> kronq.write_basis("llama-2-7b/", "basis.safetensors", rank=16, only="_proj$")
    """
    check_packed_name(out)
    check_output(out, force=force)
    recipe = None
    if adapter is not None:
        bases = adapter.bases
        recipe = bases.recipe if bases else read_recipe(folder_of(adapter.origin.path))
    opened = open_basis(source, recipe)
    wanted = _wanted(opened, adapter, rank, only)
    made = _counted(_bases(opened, wanted, adapter), len(wanted), progress)
    return write_basis_file(out, made, opened.recipe, force=force)


def _wanted(
    source: BasisSource, adapter: Adapter | None, rank: int | None, only: str | None
) -> Wanted:
    if adapter is not None:
        if rank is not None:
            raise ArgumentError("the adapter tells the rank", found=f"rank {rank}")
        part = adapter if only is None else take_part(adapter, only)
        cores = {} if part.bases is None else part.bases.layers
        kept = cores or part
        return {n: (part[n].rank, cores[n].shape if cores else part[n].shape) for n in kept}
    if isinstance(source, StoredBases):
        shapes = {name: [m.shape for m in pair()] for name, pair in source.pairs.items()}
        found = {n: (b[1], (b[0], a[1])) for n, (b, a) in shapes.items()}
    elif rank is None or not isinstance(source, ComputedBases):
        raise ArgumentError("no rank", hint="{rank}, or {adapter}, which has one")
    else:
        check_type("rank", rank, int)
        found = {n: (rank, s) for n, s in source.weights.matrices.items() if rank <= min(s)}
        if only is None:
            found = {n: each for n, each in found.items() if re.search(r"\.\d+\.", n)}
    matcher = NameMatcher()
    found = {n: each for n, each in found.items() if only is None or matcher.matches(only, n)}
    if not found:
        raise ArgumentError("no layer has such a name", path=source.path, found=only)
    return found


def _bases(
    source: BasisSource, wanted: Wanted, adapter: Adapter | None
) -> Iterator[tuple[str, Pair, bytes | None]]:
    """Yields (layer, B and A, digest of the weight that they are made of)."""
    if adapter is not None and adapter.bases is not None:
        part = replace(adapter, bases=adapter.bases.part(wanted))
        found = find_frames(part, source)
    else:
        found = ((n, *source.basis(n, rank, shape)) for n, (rank, shape) in wanted.items())
    for name, basis, frame in found:
        pair = frame.b.astype(np.float32), frame.a.astype(np.float32)
        if isinstance(source, StoredBases):
            pair = source.pairs[name]()  # as they are, with their signs: their digest is of these
        yield name, pair, None if source.recipe is None else basis.digest


def _counted(items: Iterable[T], total: int, progress: Progress | None) -> Iterator[T]:
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(done, total)
