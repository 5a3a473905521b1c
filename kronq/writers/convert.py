"""``kronq.convert``: writes an adapter in the form of another program."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from kronq.errors import ArgumentError, StrPath, check_choice, check_type
from kronq.io.blas import small_matrices
from kronq.io.files import check_apart, check_output, new_file, new_folder
from kronq.model.adapter import Adapter, check_finite
from kronq.model.plain import refuse_cores
from kronq.writers.contents import Contents, Request
from kronq.writers.forms import DTYPES, FORMS
from kronq.writers.low_rank import RankLoss, reduce_rank
from kronq.writers.module_paths import restore_paths


def convert(
    adapter: Adapter,
    out: StrPath,
    *,
    to: str,
    dtype: str = "fp32",
    base_model: str | None = None,
    rank: int | None = None,
    basis: StrPath | None = None,
    force: bool = False,
) -> Path:
    """Writes an adapter for another program, as a folder or file that is complete or absent.

    Tensors are computed in float64 and rounded once, to ``dtype``; a quantized adapter is
    dequantized. Nothing else is approximated, unless a ``rank`` is given.

    Args:
        adapter: Trained or quantized.
        out: Folder or file to write.
        to: ``peft`` keeps the family (LoKr or LoRA) and ``lora`` writes the exact LoRA, both as
            PEFT folders; ``lycoris`` and ``kohya-lora`` are files with the source's keys;
            ``diffusers`` is a file for its pipelines, ``gguf`` one for llama.cpp;
            ``lora-xs`` is LoRA-XS's own folder, of R alone.
        dtype: Of the tensors: ``fp32``, ``fp16`` or ``bf16``.
        base_model: Name of the base for the config; that of the adapter's origin if None. A folder
            with its safetensors files also tells the module paths of flattened names. For
            ``gguf`` a folder with its config.json, or its GGUF file.
        rank: Writes the best LoRA of at most this rank, for the forms that are LoRA.
        basis: For ``lora-xs``: where the frozen bases are, as ``extract_cores`` takes it.
        force: Replaces an existing output.

    Returns:
        ``out``.

    Raises:
        UnsupportedError: The form cannot hold these layers, the LoRA would be huge, or names
            are flattened and the base's are not known.
        MismatchError: The layers are not those of the base.
        OutputExistsError: ``out`` exists and ``force`` is not set.
        ArgumentError: ``out`` is or holds what the adapter was read from, values overflow, or
            ``rank`` is for another form.

    Example:
        >>> kronq.convert(kronq.load("my-lokr/"), "my-lora", to="lora", rank=16)
    """
    write(
        adapter,
        out,
        to=to,
        dtype=dtype,
        base_model=base_model,
        rank=rank,
        basis=basis,
        force=force,
    )
    return Path(out)


@small_matrices()
def write(
    adapter: Adapter,
    out: StrPath,
    *,
    to: str,
    dtype: str = "fp32",
    base_model: str | None = None,
    rank: int | None = None,
    basis: StrPath | None = None,
    force: bool = False,
) -> tuple[Contents, dict[str, RankLoss]]:
    """Does what ``convert`` does; returns what was written, and what ``rank`` cost each layer."""
    check_choice("form", to, FORMS)
    check_choice("dtype", dtype, DTYPES)
    check_type("adapter", adapter, Adapter)
    check_type("out", out, str, os.PathLike)
    if base_model is not None:
        check_type("base_model", base_model, str)
    form = FORMS[to]
    if rank is not None and not form.lora:
        loras = ", ".join(name for name, each in FORMS.items() if each.lora)
        raise ArgumentError("rank is for forms that are LoRA", found=to, expected=loras)
    check_apart(out, adapter.origin.path, Path(base_model) if base_model else None)
    check_output(out, force=force)
    check_finite(adapter)
    if not form.cores:
        refuse_cores(adapter, f"the form {to}")
    adapter = restore_paths(adapter, base_model)
    losses: dict[str, RankLoss] = {}
    if rank is not None:
        adapter, losses = reduce_rank(adapter, rank)
    writer = importlib.import_module(f"kronq.writers.{form.module}")
    request = Request(to, dtype, base_model, Path(out).resolve().name, rank, basis)
    contents: Contents = writer.build(adapter, request)
    opened = new_folder(out, "convert", force=force) if form.folder else new_file(out, force=force)
    with opened as work:
        writer.write(contents, work)
    return contents, losses
