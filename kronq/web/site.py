"""The folder that a web server needs: the page, its packages, a model with slots, and adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from kronq.errors import FormatError, StrPath, UnsupportedError
from kronq.io.files import check_apart, new_folder
from kronq.onnx.base_folder import copy_data, copy_sidecars, load_base
from kronq.onnx.base_prints import BasePrints, read_prints
from kronq.onnx.expand_blocks import block_products, expand_blocks, float_bytes
from kronq.onnx.genai_config import library_name
from kronq.onnx.model_files import ModelFiles, find_model
from kronq.onnx.slots.read_onnx_adapter import refuse_unfit
from kronq.onnx.slots.slot_inputs import lazy_slot_inputs
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec
from kronq.onnx.slots.write_onnx_adapter import SUFFIX
from kronq.packed.reader import open_packed, read_packed
from kronq.web.packages import PAGE, copy_packages

INDEX = "index.html"
SUBFOLDERS = ("packed", "node_modules", "model")
_LARGEST_FLOATS = 2 * 2**30
"""Bytes of float32 weights up to which blocks are expanded: WebAssembly has 4 GiB in all."""


@dataclass(frozen=True)
class Site:
    """What was written.

    Attributes:
        folder: The folder.
        model_bytes: Bytes of the model's files, which a browser loads once.
        adapter_bytes: Bytes of each adapter's file, by name.
        expanded: Number of 4- and 8-bit weights that become float32 when the page loads.
        kept: Number of those that stay as they are, and are slow in a browser.
    """

    folder: Path
    model_bytes: int
    adapter_bytes: dict[str, int]
    expanded: int
    kept: int


def write_site(
    model: StrPath,
    adapters: Mapping[str, StrPath],
    out: StrPath,
    packages: Path,
    *,
    question: str = "",
    prompt: str = "{}",
    other_base: bool = False,
    force: bool = False,
) -> Site:
    """Writes the page and all that it loads; any web server can serve the folder.

    Args:
        model: Folder that ``kronq export --form slots`` wrote.
        adapters: Name → packed file or .onnx_adapter.
        out: The folder to write.
        packages: What ``find_packages`` returned.
        question: The question that the page shows first.
        prompt: The prompt; ``{}`` stands for the question.
        other_base: Takes adapters that were calibrated or tested with another base, too.
        force: Whether an earlier site is replaced.

    Raises:
        FormatError: A file is damaged, or no packed adapter and no .onnx_adapter.
        MismatchError: An adapter does not belong to the model.
        UnsupportedError: The model has no slots, or a compiled operator.
        OutputExistsError: The folder exists and may not be replaced.
    """
    found, paths = find_model(model), {name: Path(path) for name, path in adapters.items()}
    check_apart(out, found.folder, *paths.values())
    _check_model(found)
    spec = SlotSpec.read(found.folder)
    prints = None if other_base else read_prints(found.folder)
    for path in paths.values():
        _check_adapter(path, spec, prints)
    with new_folder(out, "web", force=force, subfolders=SUBFOLDERS) as work:
        _copy_page(packages, work)
        target = work / "model"
        target.mkdir()
        counts = _copy_model(found, target)
        model_bytes = sum(f.stat().st_size for f in target.iterdir() if ".onnx" in f.name)
        listed = [_copy_adapter(name, path, target) for name, path in paths.items()]
        name = found.folder.resolve().name
        page = {"name": name, "question": question, "prompt": prompt, "adapters": listed}
        (target / "adapters.json").write_text(json.dumps(page, indent=2) + "\n", "utf-8")
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    return Site(Path(out), model_bytes, sizes, *counts)


def _check_model(found: ModelFiles) -> None:
    if not found.genai:
        raise FormatError("no genai_config.json beside the model", path=found.folder)
    if library_name(found.genai) is not None:
        raise UnsupportedError(
            "the model needs a compiled library, which no browser runs",
            path=found.folder,
            hint="{export_onnx} with {compiled=False}",
        )


def _check_adapter(path: Path, spec: SlotSpec, prints: BasePrints | None) -> None:
    """Refuses what the page could not load."""
    if path.suffix == SUFFIX:
        refuse_unfit(path, spec)
        return
    file = open_packed(path)
    if file is None:
        raise FormatError(
            "not a file that the page loads",
            path=path,
            expected=f"a packed adapter, or an {SUFFIX}",
            hint="{quantize} packs it; bits=16 keeps floats",
        )
    adapter = read_packed(file)
    if prints is not None:
        prints.check(adapter)
    lazy_slot_inputs(adapter, spec)


def _copy_page(packages: Path, folder: Path) -> None:
    for file in PAGE.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    (folder / "packed").mkdir()
    for file in (PAGE / "packed").glob("*.js"):
        shutil.copyfile(file, folder / "packed" / file.name)
    copy_packages(packages, folder / "node_modules")


def _copy_model(found: ModelFiles, target: Path) -> tuple[int, int]:
    """Copies graph, weights and settings; returns how many weights were expanded, and kept."""
    model = load_base(found.model)
    blocks = len(block_products(model))
    expanded = expand_blocks(model) if 0 < float_bytes(model) <= _LARGEST_FLOATS else 0
    if expanded:
        ir.save(model, target / "model.onnx", external_data="model.onnx.data")
    else:
        copy_data(model, found.model, target)
        ir.save(model, target / "model.onnx")
    copy_sidecars(found.model, target)
    shutil.copyfile(found.folder / SPEC, target / SPEC)
    return expanded, blocks - expanded


def _copy_adapter(name: str, path: Path, target: Path) -> dict[str, str]:
    shutil.copyfile(path, target / f"{name}{path.suffix}")
    return {"name": name, "file": f"{name}{path.suffix}"}
