"""``kronq.load``: reads an adapter in any supported format."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from kronq import packed
from kronq.cores.basis_file import is_basis_file
from kronq.errors import (
    ArgumentError,
    FormatError,
    StrPath,
    check_choice,
    check_type,
    listing,
)
from kronq.io.blas import small_matrices
from kronq.io.input_path import find_input
from kronq.io.safetensors_file import keep_open, open_tensors
from kronq.model.adapter import Adapter
from kronq.model.part import take_part
from kronq.readers import FORMATS, READERS
from kronq.readers.basis import fold_basis
from kronq.readers.lycoris_keys import is_other_algorithm
from kronq.readers.options import Options, check_conv_kernels, find_folder
from kronq.readers.peft_config import CONFIG
from kronq.readers.scale_rule import SCALE_RULES, ScaleRule

_READERS = {name: importlib.import_module(f"kronq.readers.{name}") for name in READERS}


@keep_open()
@small_matrices()
def load(
    path: StrPath,
    *,
    format: str | None = None,
    scale_rule: ScaleRule | None = None,
    alpha: float | None = None,
    only: str | None = None,
    conv_kernel: Mapping[str, tuple[int, ...]] | None = None,
    base_weights: StrPath | None = None,
    initial: StrPath | None = None,
    basis: StrPath | None = None,
    verify: bool = True,
    other_base: bool = False,
) -> Adapter:
    """Reads an adapter: a PEFT folder, or a LyCORIS, kohya, raw-factor or packed file.

    Only safetensors and JSON files are opened, and torch is not needed.

    Args:
        path: A folder or a file.
        format: ``kronq``, ``peft``, ``lycoris`` or ``factors``; detected when None.
        scale_rule: ``peft``, ``rslora``, ``lycoris`` or ``one``; that of the format when None.
        alpha: Replaces the stored α.
        only: A regular expression: layers whose names it is not found in are left out.
        conv_kernel: Regular expression on layers' names → the kernel of their convolutions, such
            as ``(3, 3)``, or ``()`` for linear layers; where LoKr's and LoHa's matrices do not
            tell them and no known model has such a layer.
        base_weights: The base's Hugging Face folder, with its safetensors. Adapters of MiSS, HRA
            and KaSA need it, and some of VeRA, PiSSA and OLoRA; it tells the names and kernels of
            an image model's layers, too.
        initial: The adapter's folder as it was before training, where its initialization moved a
            part of the base into it (PiSSA, OLoRA, CorDA, LoRA-GA); it is subtracted.
        basis: Where LoRA-XS's R alone finds its frozen bases, as ``extract_cores`` takes it; the
            adapter is then an ordinary LoRA. Without it a file of R alone can be looked at and
            measured, not run. Any other adapter needs none.
        verify: Compares a packed file's checksum before anything of it is used, for which all of
            it is read once. False also reads one that was damaged or changed.
        other_base: Forgets with which base a packed adapter was calibrated or tested, so that any
            base of the same shapes takes it.

    Returns:
        A mapping from the base's module paths to layers, in natural order.

    Raises:
        NotFoundError: The path does not exist.
        FormatError: Nothing readable is there, or it is damaged or incomplete.
        UnsupportedError: It is a kind of adapter that kronq does not handle.
        ArgumentError: An argument has a wrong type or value.
        MismatchError: ``basis`` has other bases than the adapter's.
    """
    check_type("path", path, str, os.PathLike)
    if alpha is not None:
        check_type("alpha", alpha, int, float, np.number)
    if scale_rule is not None:
        check_choice("scale_rule", scale_rule, SCALE_RULES)
    if format is not None:
        check_choice("format", format, FORMATS)
    if conv_kernel is not None:
        check_conv_kernels(conv_kernel)
    options = Options(
        scale_rule,
        alpha,
        {e: tuple(k) for e, k in (conv_kernel or {}).items()},
        find_folder("base_weights", base_weights, "base"),
        find_folder("initial", initial, "adapter"),
    )
    adapter = fold_basis(_read(find_input(path), format, options, verify), basis)
    if other_base:
        adapter = replace(adapter, base=None)
    return adapter if only is None else take_part(adapter, only)


def _read(source: Path, format: str | None, options: Options, verify: bool) -> Adapter:
    packed_file = packed.open_packed(source) if format is None else None
    if packed_file is not None or format == "kronq":
        if options != Options():
            raise ArgumentError(
                "a packed file has its scales already",
                path=source,
                hint="give the options of its source when it is quantized",
            )
        return packed.read_packed(packed_file or source, verify=verify)
    reader = _READERS[format or _detect(source)]
    adapter: Adapter = reader.read(source, options)
    return adapter


_ADAPTED = re.compile("lora|lokr|lycoris|hada|base_model\\.model")
_EXPECTED = "PEFT, LyCORIS LoKr or LoRA, Kron-LoRA factors or a packed file"


def _detect(path: Path) -> str:
    for name, reader in _READERS.items():
        if reader.detect(path):
            return name
    if path.is_dir():
        raise FormatError(
            "no adapter in this folder",
            path=path,
            expected="adapter_config.json and adapter_model.safetensors",
            hint=_folder_hint(path),
        )
    if is_basis_file(path):
        raise FormatError(
            "frozen bases, which belong to LoRA-XS adapters",
            path=path,
            expected="an adapter",
            hint="{basis} takes it",
        )
    names = sorted(open_tensors(path).entries)
    if is_other_algorithm(names):
        return "lycoris"  # which refuses it by name
    whole = [name for name in names if name.endswith((".weight", ".bias"))]
    if whole and not any(_ADAPTED.search(name) for name in names):
        raise FormatError(
            "weights of a model, not an adapter",
            path=path,
            found=listing(whole),
            expected=_EXPECTED,
            hint="{base_weights} takes a model's folder, beside the adapter",
        )
    if any(name.endswith((".lora_A", ".lora_E")) for name in names):
        raise FormatError(
            "PEFT's tensors without their config, which has the kind of the tuner",
            path=path,
            found=listing(names),
            expected=f"{CONFIG} beside it",
        )
    raise FormatError(
        "not an adapter that kronq knows",
        path=path,
        found=", ".join(names[:3]) + ", …" * (len(names) > 3) if names else "no tensors",
        expected=_EXPECTED,
    )


def _folder_hint(folder: Path) -> str | None:
    inside = sorted(config.parent for config in folder.glob(f"*/{CONFIG}"))
    if inside:
        rest = f", or one of {len(inside) - 3:,} more" if len(inside) > 3 else ""
        each = "; 'kronq quantize --each' takes all of them" if len(inside) > 1 else ""
        return f"give {' or '.join(map(str, inside[:3]))}{rest}{each}"
    if (folder / "model_index.json").is_file() or (folder / "config.json").is_file():
        return "this is a model; the adapter is another folder or file"
    if (folder / "index.sqlite").is_file():
        return "this is a pool; 'kronq pool ls' lists its adapters"
    files = len([*folder.glob("*.safetensors")])
    if files > 1:
        return f"give one of its {files:,} files; 'kronq quantize --each' takes all of them"
    return "give a packed file itself" if files else None
