"""llama.cpp's adapter file: a LoRA with llama.cpp's names of tensors, and its order of rows.

llama.cpp multiplies by α / rank, the rank of each layer its own (src/llama-adapter.cpp,
convert_lora_to_gguf.py). A tensor that the base does not have is an error there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronq.errors import MismatchError, UnsupportedError, listing
from kronq.io.extras import require
from kronq.io.tensor_writer import TensorParts
from kronq.model.adapter import Adapter
from kronq.model.plain import refuse_all_but_deltas
from kronq.writers.contents import Contents, Request, Values
from kronq.writers.gguf_base import GgufBase, read_base, text_half_name
from kronq.writers.lora_factors import lora_layers
from kronq.writers.module_paths import refuse_unknown_paths


@dataclass(frozen=True, eq=False)
class GgufAdapter(Contents):
    """Contents of the file; a tensor's last dimension is ggml's first.

    Attributes:
        architecture: llama.cpp's name of the base's.
        alpha: α of all layers.
    """

    architecture: str
    alpha: float


def build(adapter: Adapter, request: Request) -> GgufAdapter:
    """Builds the file's contents.

    Raises:
        UnsupportedError: The base is not given or its architecture not known, or llama.cpp has no
            tensor for some layers; all of them are named.
        MismatchError: Layers have another shape than the base's tensors.
        MissingDependencyError: The gguf package is not installed.
    """
    require("base", "a GGUF file", "gguf")
    hint = "PEFT's merge_and_unload puts them into the base, of which llama.cpp makes a GGUF file"
    refuse_all_but_deltas(adapter, "llama.cpp's adapter", hint)
    refuse_unknown_paths(adapter)
    base = read_base(request.base_model)
    names = _tensor_names(adapter, base)
    layers = lora_layers(adapter, one_alpha=True)
    tensors = {}
    for name, layer in layers.items():
        tensor = names[name]
        up, down = layer.tensors()
        order = base.row_order(tensor, up.shape[0])
        if order is not None:
            up = Values(up.shape, partial(_reordered, up, order))
        tensors[f"{tensor}.lora_a"] = down.tensor(request.dtype, name)
        tensors[f"{tensor}.lora_b"] = up.tensor(request.dtype, name)
    alpha = next(iter(layers.values())).alpha
    ranks = {name: layer.rank for name, layer in layers.items()}
    return GgufAdapter("lora", ranks, tensors, base.architecture, alpha)


def write(contents: GgufAdapter, work: Path) -> None:
    """Writes the file with the gguf package."""
    import gguf

    writer = gguf.GGUFWriter(work, contents.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, contents.alpha)
    for name, tensor in contents.tensors.items():
        kind, shape = tensor.dtype, tensor.shape
        if kind.name == "bfloat16":
            shape, kind = (*shape[:-1], 2 * shape[-1]), np.dtype(np.uint8)
            bf16 = gguf.GGMLQuantizationType.BF16
            writer.add_tensor_info(name, shape, kind, tensor.nbytes, raw_dtype=bf16)
        else:
            writer.add_tensor_info(name, shape, kind, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in contents.tensors.values():
        (values,) = tensor.make() if isinstance(tensor, TensorParts) else (tensor,)
        writer.write_tensor_data(values.view(np.uint8))
    writer.close()


def _reordered(values: Values, order: NDArray[np.int64]) -> NDArray[np.float64]:
    return values.make()[order]


def _tensor_names(adapter: Adapter, base: GgufBase) -> dict[str, str]:
    """Returns layer → llama.cpp's name of its weight.

    Raises:
        UnsupportedError: Some have none.
        MismatchError: A tensor has another shape.
    """
    import gguf

    architectures = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(architectures[base.architecture], base.blocks)
    found = {name: table.get_name(text_half_name(name)) for name in adapter}
    names = {name: f"{tensor}.weight" for name, tensor in found.items() if tensor is not None}
    placed = {name: tensor for name, tensor in names.items() if _has_place(tensor, base)}
    without = [name for name in adapter if name not in placed]
    if without:
        raise UnsupportedError(
            f"{len(without)} of {len(adapter)} layers have no weight of their own in llama.cpp",
            path=adapter.origin.path,
            found=listing(without),
            expected=f"the linear layers of a {base.architecture} of {base.blocks} layers",
            hint="{only} chooses the others",
        )
    for name, tensor in placed.items():
        shape = base.shapes.get(tensor, adapter[name].shape)
        if shape != adapter[name].shape:
            raise MismatchError(
                "the layer has another shape than the base's weight",
                path=base.path,
                layer=name,
                found=f"{list(adapter[name].shape)}, and {tensor} is {list(shape)}",
                hint="wrong base model?",
                code="shape",
            )
    return placed


def _has_place(tensor: str, base: GgufBase) -> bool:
    """Tells whether a LoRA of the tensor is applied: an embedding's is not, nor a tied head's."""
    if tensor == "token_embd.weight" or (tensor == "output.weight" and base.tied):
        return False
    return not base.shapes or tensor in base.shapes
