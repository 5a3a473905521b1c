"""Quantized weights in a graph, read as blocks and written back as their node's inputs.

MatMulNBits (onnxruntime's ContribOperators.md): B is [N, ⌈K / block⌉, block · bits / 8] bytes, the
lowest bits first, zero points packed likewise for each row, or floats. DequantizeLinear (ONNX): a
scale for the whole, for each index of ``axis``, or for blocks along it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.errors import UnsupportedError
from kronq.model.bit_packing import pack_rows, unpack_unsigned
from kronq.model.delta import F64
from kronq.onnx.graph.sites import Site
from kronq.onnx.merge.quantized_blocks import QuantizedBlocks

_Array = NDArray[Any]

_RANGES = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
}


def dequantizer_of(site: Site) -> tuple[ir.Node, int]:
    """Returns the node that dequantizes a weight, and the index of its input of codes.

    Scales and zero points are the next two inputs.

    Raises:
        UnsupportedError: The weight is dequantized in another way.
    """
    if site.node.op_type == "MatMulNBits":
        return site.node, 1
    kinds = [link.op_type for link in site.chain]
    if kinds.count("DequantizeLinear") != 1 or "QuantizeLinear" in kinds or kinds[0] == "Cast":
        raise _unsupported(site, " → ".join(kinds))
    return site.chain[kinds.index("DequantizeLinear")], 0


def read_blocks(site: Site) -> QuantizedBlocks:
    """Reads a site's quantized weight.

    Raises:
        UnsupportedError: Its codes, blocks or order of columns are of an unknown kind.
    """
    node, kind, codes, scale, zero = _read_inputs(site)
    if node is site.node:
        return _read_nbits(site, codes, scale, zero)
    return _read_dequantize_linear(node, kind, codes, scale, zero)


def read_rows(site: Site, rows: NDArray[np.intp]) -> F64:
    """Returns some rows (outputs) of a site's quantized weight, dequantized: [rows, d_in].

    Raises:
        UnsupportedError: As ``read_blocks``.
    """
    node, kind, codes, scale, zero = _read_inputs(site)
    if node is site.node:
        few = replace(site, shape=(len(rows), site.shape[1]))
        parts = (codes, scale, zero)
        codes_of, scales, zeros = (
            None if part is None else part.reshape(site.shape[0], -1)[rows] for part in parts
        )
        assert codes_of is not None  # noqa: S101
        assert scales is not None  # noqa: S101
        return _read_nbits(few, codes_of, scales, zeros).dense()
    outputs = 0 if site.stored_transposed else 1
    per_output = node.attributes.get_int("axis", 1) % 2 == outputs

    def take(values: _Array) -> _Array:
        if values.ndim == 2:
            return values.take(rows, axis=outputs)
        return values[rows] if values.size > 1 and per_output else values

    few_zeros = None if zero is None else take(zero)
    found = _read_dequantize_linear(node, kind, take(codes), take(scale), few_zeros).dense()
    return found if site.stored_transposed else found.T


def _read_inputs(site: Site) -> tuple[ir.Node, ir.DataType, _Array, _Array, _Array | None]:
    """Returns the node that dequantizes a weight, the codes' type, and codes, scales and zeros."""
    if site.conv is not None:
        raise _unsupported(site, "codes of a convolution")
    node, first = dequantizer_of(site)
    codes, scale, zero = (_constant_input(node, first + i) for i in range(3))
    if codes is None or scale is None or site.codes is None or site.codes.const_value is None:
        raise _unsupported(site, "scales that are not constant")
    kind = site.codes.const_value.dtype
    if first == 1 and len(node.inputs) > 4 and node.inputs[4] is not None:
        raise _unsupported(site, "MatMulNBits with g_idx")
    if first == 0 and (kind not in _RANGES or scale.ndim > 2):
        raise _unsupported(site, kind.name)
    return node, kind, codes, scale, zero


def _read_nbits(site: Site, codes: _Array, scale: _Array, zero: _Array | None) -> QuantizedBlocks:
    attributes = site.node.attributes
    bits, size = attributes.get_int("bits", 4), attributes["block_size"].as_int()
    if bits not in (2, 4, 8):
        raise _unsupported(site, f"{bits} bits")
    rows, count = site.shape[0], -(-site.shape[1] // size)
    if codes.size * 8 != rows * count * size * bits or scale.size != rows * count:
        raise _unsupported(site, f"{codes.size:,} bytes and {scale.size:,} scales")
    middle = 2 ** (bits - 1)
    integer_zeros = zero is None or zero.dtype == np.uint8
    if zero is None:
        zeros = np.full((rows * count, 1), middle, np.float64)
    elif integer_zeros:
        numbers = unpack_unsigned(zero.reshape(rows, -1), bits, count)
        zeros = numbers.astype(np.float64).reshape(-1, 1)
    else:
        zeros = zero.astype(np.float64).reshape(-1, 1)
    return QuantizedBlocks(
        codes=unpack_unsigned(codes.reshape(rows * count, -1), bits, size).astype(np.float64),
        scale=scale.astype(np.float64).reshape(-1, 1),
        zero=zeros,
        limits=(0, 2**bits - 1),
        symmetric=zero is None or bool((zeros == middle).all()),
        integer_zeros=integer_zeros,
        scale_type=scale.dtype,
        shape=site.shape,
        axis=1,
        size=size,
    )


def _read_dequantize_linear(
    node: ir.Node, kind: ir.DataType, codes: _Array, scale: _Array, zero: _Array | None
) -> QuantizedBlocks:
    numbers = codes.astype(np.float64)
    size = node.attributes.get_int("block_size", 0) or None
    axis = None if scale.size == 1 and not size else node.attributes.get_int("axis", 1) % 2

    def column(values: _Array) -> F64:
        wide = values.astype(np.float64)
        return (np.moveaxis(wide, axis or 0, -1) if size else wide).reshape(-1, 1)

    zeros = np.zeros(scale.shape) if zero is None else zero.astype(np.float64)
    middle = sum(_RANGES[kind]) // 2 + (sum(_RANGES[kind]) % 2)
    blocks = QuantizedBlocks(
        codes=numbers,
        scale=column(scale),
        zero=column(zeros),
        limits=_code_limits(numbers, kind),
        symmetric=zero is None or bool((zeros == middle).all()),
        integer_zeros=True,
        scale_type=scale.dtype,
        shape=(int(codes.shape[0]), int(codes.shape[1])),
        axis=axis,
        size=size,
    )
    return replace(blocks, codes=blocks.split(numbers))


def _code_limits(codes: F64, kind: ir.DataType) -> tuple[int, int]:
    """Returns the range of codes: that of their type, or of onnxruntime's ``reduce_range``.

    Under ``reduce_range`` codes have 7 bits, for processors whose int8 products overflow.
    """
    if kind == ir.DataType.INT8 and np.abs(codes).max(initial=0) <= 64:
        return -64, 64
    if kind == ir.DataType.UINT8 and codes.max(initial=0) <= 127:
        return 0, 127
    return _RANGES[kind]


def stored_tensors(blocks: QuantizedBlocks, site: Site) -> list[tuple[int, ir.TensorProtocol]]:
    """Returns new inputs of the dequantizing node, in the shapes and types of the old ones.

    Returns:
        (Index of the input, tensor), for codes, scales and, where there are any, zero points.
    """
    node, first = dequantizer_of(site)
    bits = site.node.attributes.get_int("bits", 4) if first == 1 else 0
    codes = blocks.codes if first == 1 else blocks.join(blocks.codes)
    tensors: list[tuple[int, ir.TensorProtocol]] = []
    for index, values in enumerate((codes, blocks.scale, blocks.zero), first):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or value.const_value is None:
            continue
        old = value.const_value
        array: _Array
        if first == 1 and old.dtype == ir.DataType.UINT8:
            rows = site.shape[0] if index == first + 2 else len(values)
            array = pack_rows(values.reshape(rows, -1).astype(np.uint8), bits)
        elif blocks.size and index > first and first == 0:
            along = values.reshape(blocks.shape[1 - (blocks.axis or 0)], -1)
            array = np.moveaxis(along, -1, blocks.axis or 0)
        else:
            array = values
        shape = tuple(old.shape.numpy())
        tensors.append((index, ir.Tensor(_cast(array.reshape(shape), old.dtype), dtype=old.dtype)))
    return tensors


def _cast(array: _Array, dtype: ir.DataType) -> _Array:
    kind = {ir.DataType.INT4: ml_dtypes.int4, ir.DataType.UINT4: ml_dtypes.uint4}.get(dtype)
    return np.ascontiguousarray(array.astype(kind or dtype.numpy()))


def _constant_input(node: ir.Node, index: int) -> _Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _unsupported(site: Site, found: str) -> UnsupportedError:
    return UnsupportedError(
        "this quantized base weight cannot take ΔW",
        found=f"{found} at {site.label!r}",
        expected="MatMulNBits, or DequantizeLinear of constant int8 or int4 codes",
        hint="use {form=branch}",
    )
