"""Writes the branch form: the base, and a packed file that its branches read factors from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import onnx_ir as ir

from kronq import packed
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Product
from kronq.model.matrix import Float, Matrix, Quantized
from kronq.onnx.base_folder import MODEL, copy_data
from kronq.onnx.branch.add_branches import INT4_OPSET, add_branches, opset_of
from kronq.onnx.external_data import external_files
from kronq.onnx.graph.values import add_initializer, unused_name
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.written_form import WrittenForm
from kronq.trellis.coded_matrix import EntropyCoded

_SUFFIX = ".safetensors"
_TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int8": ir.DataType.INT8,
    "int4": ir.DataType.INT4,
}


def write_branches(base: MatchedBase, folder: Path) -> WrittenForm:
    """Writes the base with a branch beside each layer of its adapter.

    Args:
        base: The base, left as it is.
        folder: Gets model.onnx, the base's weights and the packed adapter.
    """
    base = base.copy()
    adapter = convert_for_onnx(base.adapter, opset_of(base.model))
    name = _unused_file_name(base.model)
    packed.save(adapter, folder / name)
    copy_data(base.model, base.file, folder)
    factors = _external_factors(base.model, adapter, folder, name)
    branches = add_branches(base.model, adapter, base.matches, factors)
    ir.save(base.model, folder / MODEL)
    return WrittenForm(branches=branches, adapter_file=name)


def convert_for_onnx(adapter: Adapter, opset: int) -> Adapter:
    """Returns the same values in types that ONNX reads in place.

    Codes of widths that ONNX lacks are widened to int4 or int8 (before opset 21, which adds int4,
    to int8), and entropy-coded levels become float32.
    """
    narrow = 4 if opset >= INT4_OPSET else 8

    def convert(matrix: Matrix) -> Matrix:
        if isinstance(matrix, EntropyCoded):
            return Float(matrix.float32())
        if isinstance(matrix, Quantized):
            return replace(matrix, bits=narrow if matrix.widest <= narrow else 8, widths=None)
        return matrix

    def convert_product(product: Product) -> Product:
        if product is ONE:
            return product
        right = None if product.right is None else convert(product.right)
        return replace(product, left=convert(product.left), right=right)

    layers = {
        name: replace(delta, a=convert_product(delta.a), b=convert_product(delta.b))
        for name, delta in adapter.items()
    }
    return replace(adapter, layers=layers)


def _unused_file_name(model: ir.Model) -> str:
    """Returns a name that no data file of the base has: it may hold another adapter."""
    files = {str(PurePosixPath(file)) for file in external_files(model)}
    taken = {file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX)}
    return unused_name("adapter", taken) + _SUFFIX


def _external_factors(
    model: ir.Model, adapter: Adapter, folder: Path, name: str
) -> dict[str, dict[str, ir.Value]]:
    """Adds every factor to the model, as external data in the packed file.

    Returns:
        Layer → part (``A``, ``B1``, ``B1.scale`` …) → its initializer.
    """
    located = packed.locate(folder / name)
    taken = set(model.graph.initializers)
    factors: dict[str, dict[str, ir.Value]] = {}
    # onnx wants external data in ascending order of offset within a file.
    order = sorted(
        (where.offset, layer, part)
        for layer in adapter
        for part, where in located[layer].items()
        if part != "magnitude"  # the branch has DoRA's gain, which is made from it
    )
    for _, layer, part in order:
        where = located[layer][part]
        tensor = ir.ExternalTensor(
            name,
            where.offset,
            where.length,
            _TYPES[where.dtype],
            shape=ir.Shape(where.shape),
            name=unused_name(f"{layer}.{part}", taken),
            base_dir=str(folder),
        )
        initializer = add_initializer(model.graph, str(tensor.name), tensor)
        factors.setdefault(layer, {})[part] = initializer
    return factors
