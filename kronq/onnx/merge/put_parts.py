"""Puts trained biases, norms and other parameters into a graph, by their modules' names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from kronq.errors import MismatchError, UnsupportedError, listing
from kronq.model.delta import F64
from kronq.onnx.graph.match_by_name import canonical
from kronq.onnx.graph.site_names import site_names
from kronq.onnx.merge.trained_parts import TrainedPart

_PARAMETER = re.compile(r"(?P<module>.+?)(\.(Add|MatMul|Gemm|Conv))?\.(?P<parameter>weight|bias)")
_BY_OPERATOR = {"Mul": "weight", "Add": "bias"}
"""What a norm's node multiplies and adds is its weight and bias, whatever these are called."""

_Index = dict[tuple[str, str], dict[ir.Value, None]]
"""Module, as names are compared, and parameter → the values that may be it."""


def put_parts(model: ir.Model, parts: Sequence[TrainedPart]) -> None:
    """Changes parameters of a graph, in place.

    Args:
        model: The base; its weights on disk are left as they are.
        parts: As ``split_parts`` returns them.

    Raises:
        MismatchError: The base has no parameter of these names; all of them are named. Or it has
            one of another shape.
        UnsupportedError: Other modules use the same parameter, or it is stored as codes.
    """
    index = _parameters(model)
    found = {part.tensor: index.get((canonical(part.module), part.parameter)) for part in parts}
    missing = [tensor for tensor, values in found.items() if values is None]
    if missing:
        raise MismatchError(
            "the base has no parameters of these names",
            found=listing(missing),
            expected="a bias, norm or weight that the ONNX model keeps under its module's name",
            hint="put them into the base before it becomes an ONNX model",
            code="layers-not-in-base",
        )
    for part in parts:
        _put(part, list(found[part.tensor] or ()))


def _parameters(model: ir.Model) -> _Index:
    index: _Index = {}
    for name, value in model.graph.initializers.items():
        if match := _PARAMETER.fullmatch(name):
            key = canonical(match["module"]), match["parameter"]
            index.setdefault(key, {})[value] = None
    for node in model.graph:
        if node.op_type in _BY_OPERATOR:
            constants = (v for v in node.inputs if v is not None and v.is_initializer())
            found = dict.fromkeys(constants)
            for module in site_names(node, None) if found else ():
                key = canonical(module), _BY_OPERATOR[node.op_type]
                index.setdefault(key, {}).update(found)
    return index


def _put(part: TrainedPart, candidates: Sequence[ir.Value]) -> None:
    wanted = _squeezed(part.values.shape)
    shapes = [None if v.shape is None else v.shape.numpy() for v in candidates]
    values = [v for v, s in zip(candidates, shapes, strict=True) if s and _squeezed(s) == wanted]
    if not values:
        raise MismatchError(
            f"a trained {part.parameter} has another shape than the base's",
            layer=part.module,
            found=list(part.values.shape),
            expected=listing([str([*(shape or ())]) for shape in shapes]),
        )
    value = values[0]
    tensor = value.const_value
    if len(values) > 1 or len(value.uses()) != 1 or value.is_graph_output():
        raise UnsupportedError(
            "a parameter of the base is several modules', or named twice",
            layer=part.module,
            found=listing([str(each.name) for each in values]),
            hint="put it into the base before it becomes an ONNX model",
        )
    if tensor is None or not tensor.dtype.is_floating_point():
        raise UnsupportedError(
            "a parameter of the base takes no difference",
            layer=part.module,
            found="codes" if tensor is not None else "no constant",
        )
    values_in_shape = part.values.reshape(tensor.shape.numpy())
    value.const_value = _changed(tensor, values_in_shape, replaces=part.replaces)


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns a shape without axes of one: GroupNorm's [C] is [C, 1, 1] in ONNX."""
    return tuple(size for size in shape if size != 1)


def _changed(tensor: ir.TensorProtocol, values: F64, *, replaces: bool) -> ir.LazyTensor:
    """Returns the parameter after training, in its own dtype."""
    dtype = tensor.dtype

    def make() -> ir.TensorProtocol:
        total = values if replaces else tensor.numpy().astype(np.float64) + values
        return ir.Tensor(total.astype(dtype.numpy()), dtype=dtype, name=tensor.name)

    return ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)
