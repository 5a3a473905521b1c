"""Frozen bases of LoRA-XS adapters: opened wherever they are, and left out of adapters."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from kronq.cores.basis_file import is_basis_file, open_basis_file
from kronq.cores.fold import fold_cores
from kronq.cores.frame import Frame
from kronq.cores.moments import project_moments
from kronq.cores.sources import BasisSource, ComputedBases
from kronq.cores.split import split_cores
from kronq.errors import FormatError, MismatchError, NotFoundError, StrPath, check_type
from kronq.io.base_weights import open_base
from kronq.io.input_path import find_input
from kronq.io.json_file import read_json
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.model.frozen_bases import BasisRecipe
from kronq.model.second_moments import SecondMoments
from kronq.readers.peft_config import CONFIG, WEIGHTS
from kronq.readers.peft_tuners.lora_xs import open_pairs, read_recipe


def open_basis(path: StrPath, recipe: BasisRecipe | None = None) -> BasisSource:
    """Opens what frozen bases can come from.

    Args:
        path: A file of ``kronq basis``, a LoRA-XS folder, or the base as a Hugging Face folder.
        recipe: How they are made of a base's weights; LoRA-XS's own settings if None.

    Raises:
        FormatError: It is none of these.
        MismatchError: The base is quantized.
        NotFoundError: It does not exist.
    """
    found = find_input(path, "base")
    if is_basis_file(found):
        return open_basis_file(found)
    folder = found.parent if found.name in (CONFIG, WEIGHTS) else found
    if folder.is_dir() and (folder / WEIGHTS).is_file():
        return open_pairs(folder)
    if found.is_dir():
        with contextlib.suppress(NotFoundError):
            weights = open_base(found)
            _refuse_quantized(weights.folder)
            return ComputedBases(weights, recipe or BasisRecipe())
    raise FormatError(
        "nothing that has frozen bases",
        path=path,
        expected="a file of 'kronq basis', a LoRA-XS folder, or a Hugging Face folder of the base "
        "with safetensors",
    )


def _refuse_quantized(folder: Path) -> None:
    """Refuses a base whose config says that its weights are not those that bases were made of."""
    config = folder / "config.json"
    if config.is_file() and read_json(config).get("quantization_config"):
        raise MismatchError(
            "the base is quantized, so its singular vectors are others",
            path=config,
            found="quantization_config",
            expected="the floating-point weights that the adapter was trained on",
        )


def fold_basis(adapter: Adapter, basis: StrPath | None) -> Adapter:
    """Puts frozen bases around R again, wherever they are; any other adapter stays as it is.

    Raises:
        MismatchError: ``basis`` has other bases than the adapter's.
        FormatError: It has none.
    """
    if basis is None or adapter.bases is None:
        return adapter
    return fold_cores(adapter, open_basis(basis, adapter.bases.recipe))


def extract_cores(adapter: Adapter, basis: StrPath, *, progress: Progress | None = None) -> Adapter:
    """Leaves the frozen bases out of a LoRA-XS adapter, so that R alone is quantized and stored.

    A layer whose ΔW differs by more than 1e-3 with the bases found stays a LoRA of its own, and a
    warning names it.

    Args:
        adapter: A LoRA-XS adapter as ``load`` reads it.
        basis: Where its bases are found again: a file of ``write_basis``, the LoRA-XS folder, or
            the base as a Hugging Face folder, of whose weights they are made again.
        progress: Called with (layers done, layers in all).

    Returns:
        An adapter of whole matrices [r, r]. ``load(path, basis=…)`` makes a LoRA of it again.

    Raises:
        MismatchError: The adapter's bases are others, the base is quantized, or lacks a layer.
        FormatError: ``basis`` has none.

    Example:
        >>> cores = kronq.extract_cores(kronq.load("lora-xs/"), "llama-2-7b/")
        >>> kronq.save(kronq.quantize(cores, bits=4), "small.safetensors")
    """
    return extract_with_moments(adapter, None, basis, progress=progress)[0]


def extract_with_moments(
    adapter: Adapter,
    moments: SecondMoments | None,
    basis: StrPath,
    *,
    progress: Progress | None = None,
) -> tuple[Adapter, SecondMoments | None]:
    """Does what ``extract_cores`` does, and projects the layers' second moments with it."""
    check_type("adapter", adapter, Adapter)
    projected = {} if moments is None else dict(moments.items())

    def project(name: str, frame: Frame) -> None:
        if name in projected:
            projected[name] = project_moments(projected[name], frame)

    source = open_basis(basis, read_recipe(folder_of(adapter.origin.path)))
    cores = split_cores(adapter, source, visit=project, progress=progress)
    return cores, None if moments is None else replace(moments, layers=projected)


def folder_of(path: Path | None) -> Path | None:
    """Returns the folder of an adapter's path."""
    return path if path is None or path.is_dir() else path.parent
