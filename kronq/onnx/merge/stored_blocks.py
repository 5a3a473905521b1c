"""Quantized base weights in a graph: read as blocks, and written as what their node reads.

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
from kronq.model.delta import F64
from kronq.onnx.graph.sites import Site
from kronq.onnx.merge.weight_blocks import Blocks

_RANGES = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
}


def inputs(site: Site) -> tuple[ir.Node, int]:
    """The node that dequantizes a weight, and which input its codes are: scale and zero follow."""
    if site.node.op_type == "MatMulNBits":
        return site.node, 1
    kinds = [link.op_type for link in site.chain]
    if kinds.count("DequantizeLinear") != 1 or "QuantizeLinear" in kinds or kinds[0] == "Cast":
        raise _unsupported(site, " → ".join(kinds))
    return site.chain[kinds.index("DequantizeLinear")], 0


def read(site: Site) -> Blocks:
    """A site's quantized weight.

    Raises:
        UnsupportedError: Codes, blocks or an order of columns that are not known.
    """
    node, first = inputs(site)
    codes, scale, zero = (_array(node, first + i) for i in range(3))
    if codes is None or scale is None or site.codes is None or site.codes.const_value is None:
        raise _unsupported(site, "scales that are not constant")
    kind = site.codes.const_value.dtype
    if first == 1:
        if len(node.inputs) > 4 and node.inputs[4] is not None:
            raise _unsupported(site, "MatMulNBits with g_idx")
        return _of_nbits(site, codes, scale, zero)
    if kind not in _RANGES or (scale.ndim > 2):
        raise _unsupported(site, kind.name)
    return _of_dequantize(node, kind, codes, scale, zero)


def _of_nbits(
    site: Site, codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None
) -> Blocks:
    attributes = site.node.attributes
    bits, size = attributes.get_int("bits", 4), attributes["block_size"].as_int()
    if bits not in (2, 4, 8):
        raise _unsupported(site, f"{bits} bits")
    rows, count = site.shape[0], -(-site.shape[1] // size)
    middle = 2 ** (bits - 1)
    whole = zero is None or zero.dtype == np.uint8
    if zero is None:
        zeros = np.full((rows * count, 1), middle, np.float64)
    elif whole:
        zeros = _unpacked(zero.reshape(rows, -1), bits)[:, :count].reshape(-1, 1)
    else:
        zeros = zero.astype(np.float64).reshape(-1, 1)
    return Blocks(
        _unpacked(codes.reshape(rows * count, -1), bits),
        scale.astype(np.float64).reshape(-1, 1),
        zeros,
        (0, 2**bits - 1),
        zero is None or bool((zeros == middle).all()),
        whole,
        scale.dtype,
        site.shape,
        1,
        size,
    )


def _of_dequantize(
    node: ir.Node,
    kind: ir.DataType,
    codes: NDArray[Any],
    scale: NDArray[Any],
    zero: NDArray[Any] | None,
) -> Blocks:
    low, high = _RANGES[kind]
    numbers = codes.astype(np.float64)
    # onnxruntime's reduce_range: 7 bits, for processors whose int8 products overflow.
    if kind == ir.DataType.INT8 and np.abs(numbers).max(initial=0) <= 64:
        low, high = -64, 64
    elif kind == ir.DataType.UINT8 and numbers.max(initial=0) <= 127:
        high = 127
    size = node.attributes.get_int("block_size", 0) or None
    axis = None if scale.size == 1 and not size else node.attributes.get_int("axis", 1) % 2
    shape = (int(codes.shape[0]), int(codes.shape[1]))
    limits, type_ = (low, high), scale.dtype
    empty = Blocks(numbers, scale, scale, limits, True, True, type_, shape, axis, size)

    def spread(values: NDArray[Any]) -> F64:
        wide = values.astype(np.float64)
        return (np.moveaxis(wide, axis or 0, -1) if size else wide).reshape(-1, 1)

    zeros = np.zeros(scale.shape) if zero is None else zero.astype(np.float64)
    middle = sum(_RANGES[kind]) // 2 + (sum(_RANGES[kind]) % 2)
    return replace(
        empty,
        codes=empty.split(numbers),
        scale=spread(scale),
        zero=spread(zeros),
        symmetric=zero is None or bool((zeros == middle).all()),
    )


def tensors(blocks: Blocks, site: Site) -> list[tuple[int, ir.TensorProtocol]]:
    """What the base's node is to read: (which input, tensor), in the shapes and types it has."""
    node, first = inputs(site)
    bits = site.node.attributes.get_int("bits", 4) if first == 1 else 0
    whole = blocks.codes if first == 1 else blocks.joined(blocks.codes)
    array: NDArray[Any]
    given: list[F64] = [whole, blocks.scale, blocks.zero]
    made: list[tuple[int, ir.TensorProtocol]] = []
    for index, values in enumerate(given, first):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or value.const_value is None:
            continue
        tensor = value.const_value
        shape = tuple(tensor.shape.numpy())
        packed = first == 1 and tensor.dtype == ir.DataType.UINT8
        if packed:
            rows = site.shape[0] if index == first + 2 else len(values)
            array = _packed(values.reshape(rows, -1), bits).reshape(shape)
        elif blocks.size and index > first and first == 0:
            along = values.reshape(blocks.shape[1 - (blocks.axis or 0)], -1)
            array = np.moveaxis(along, -1, blocks.axis or 0)
        else:
            array = values.reshape(shape)
        made.append((index, ir.Tensor(_typed(array, tensor.dtype), dtype=tensor.dtype)))
    return made


def _typed(array: NDArray[Any], dtype: ir.DataType) -> NDArray[Any]:
    kind = {ir.DataType.INT4: ml_dtypes.int4, ir.DataType.UINT4: ml_dtypes.uint4}.get(dtype)
    return np.ascontiguousarray(array.astype(kind or dtype.numpy()))


def _unpacked(data: NDArray[Any], bits: int) -> F64:
    """Bytes [rows, n] as codes [rows, n · 8 / bits], the lowest bits first."""
    parts = [(data >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(data), -1).astype(np.float64)


def _packed(codes: F64, bits: int) -> NDArray[np.uint8]:
    """The inverse of ``_unpacked``; a last byte is filled with zeros."""
    each = 8 // bits
    whole = np.pad(codes.astype(np.uint8), ((0, 0), (0, -codes.shape[1] % each)))
    parts = whole.reshape(len(whole), -1, each) << (np.arange(each, dtype=np.uint8) * bits)
    return np.asarray(np.bitwise_or.reduce(parts, axis=-1), dtype=np.uint8)


def _array(node: ir.Node, index: int) -> NDArray[Any] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _unsupported(site: Site, found: str) -> UnsupportedError:
    return UnsupportedError(
        "this quantized base weight cannot take ΔW",
        found=f"{found} at {site.label!r}",
        expected="MatMulNBits, or DequantizeLinear of constant int8 or int4 codes",
        hint="use {form=branch}",
    )
