"""Carried tensors as changes of a base's parameters: biases, norms and whole weights.

LyCORIS trains differences: ``diff`` of a weight, which is a ΔW without factors, ``diff_b`` of a
bias, ``w_norm`` and ``b_norm`` of a norm. PEFT saves what a bias or a module is after training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.onnx.genai_config import GENAI_CONFIG
from kronq.readers.lycoris_keys import module_path
from kronq.readers.peft_names import unwrap_name

_ADDED = {"diff": "weight", "diff_b": "bias", "w_norm": "weight", "b_norm": "bias"}
_DIFFERENCE = re.compile(rf"(?P<module>.+)\.(?P<kind>{'|'.join(_ADDED)})")
_SAVED = re.compile(
    r"(?P<module>.+?)(\.base_layer)?(\.modules_to_save(\.[^.]+)?)?\.(?P<parameter>weight|bias)"
)
_UNTRAINED = ".original_module."
"""Where PEFT keeps what a module was before training; with ``bias="all"`` it saves it, too."""


@dataclass(frozen=True, eq=False)
class TrainedPart:
    """A change of one parameter.

    Attributes:
        tensor: Its name in the adapter's file.
        module: Path of the module, or its flattened key.
        parameter: ``weight`` or ``bias``.
        values: What is added to the parameter, or what it is.
        replaces: Whether it is that.
    """

    tensor: str
    module: str
    parameter: str
    values: F64
    replaces: bool


def split_parts(adapter: Adapter) -> tuple[Adapter, list[TrainedPart]]:
    """Returns an adapter that carries nothing, and what it carried.

    Whole ΔW of weights that are matrices or kernels become layers of the adapter.

    Args:
        adapter: Any adapter.

    Raises:
        UnsupportedError: Some tensors are no parameters of modules, or of a layer that the adapter
            has factors of; all of them are named.
    """
    layers: dict[str, Delta] = dict(adapter)
    parts, others = [], []
    for tensor, array in adapter.carried.items():
        name = unwrap_name(tensor)
        if _UNTRAINED in name:
            continue
        found = _DIFFERENCE.fullmatch(name) or _SAVED.fullmatch(name)
        if found is None:
            if not _is_alpha(name, adapter.carried):
                others.append(tensor)
            continue
        module = _own_name(found["module"], adapter)
        kind = found.groupdict().get("kind")
        if kind == "diff" and array.ndim > 1:
            if module in layers:
                others.append(tensor)
            layers[module] = _whole(array)
            continue
        parameter = _ADDED[kind] if kind else found["parameter"]
        values = array.astype(np.float64)
        parts.append(TrainedPart(tensor, module, parameter, values, replaces=kind is None))
    parts = _drop_repeated(parts, adapter)
    if others:
        raise UnsupportedError(
            "trained parts that are no parameters of modules",
            path=adapter.origin.path,
            found=listing(others),
            hint="put them into the base before it becomes an ONNX model",
        )
    return replace(adapter, layers=layers, carried={}), parts


def refuse_replaced(parts: Sequence[TrainedPart], file: Path) -> None:
    """Refuses trained values, as PEFT saves them, for a base by onnxruntime-genai's builder.

    It writes some parameters otherwise: Gemma's norms with one added, parts of a fused layer.

    Args:
        parts: As ``split_parts`` returns them.
        file: The base's model.

    Raises:
        UnsupportedError: There are some; all of them are named.
    """
    names = [part.tensor for part in parts if part.replaces]
    if names and (file.parent / GENAI_CONFIG).is_file():
        raise UnsupportedError(
            "trained modules and biases do not go into a base of onnxruntime-genai's builder",
            found=listing(names),
            hint="PEFT's merge_and_unload puts the adapter into the base, of which 'kronq base' "
            "makes a model",
        )


def _drop_repeated(parts: Sequence[TrainedPart], adapter: Adapter) -> list[TrainedPart]:
    """Leaves one of the tensors that are one parameter by several of PEFT's names."""
    kept: dict[tuple[str, str], TrainedPart] = {}
    for part in parts:
        first = kept.setdefault((part.module, part.parameter), part)
        if not np.array_equal(first.values, part.values):
            raise FormatError(
                "two tensors are one parameter",
                path=adapter.origin.path,
                found=listing([first.tensor, part.tensor]),
                code="duplicate",
            )
    return [*kept.values()]


def _is_alpha(name: str, carried: Mapping[str, NDArray[Any]]) -> bool:
    """Whether it is the α of a whole weight, which LyCORIS writes and does not use."""
    module, _, part = name.rpartition(".")
    return part == "alpha" and f"{module}.diff" in carried


def _own_name(key: str, adapter: Adapter) -> str:
    """Returns a module's name as the adapter's layers have theirs: without the file's front."""
    for layer, source in adapter.origin.keys.items():
        front = source.removesuffix(layer)
        if front != source and key.startswith(front):
            return key.removeprefix(front)
    return module_path(key)


def _whole(array: NDArray[Any]) -> Delta:
    matrix = np.ascontiguousarray(array.reshape(len(array), -1))
    return Delta.uncropped(ONE, Product(Float(matrix)), 1.0, array.shape[2:])
