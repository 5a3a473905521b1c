"""Follows an input of a node back to the constant that it is made of."""

from __future__ import annotations

import onnx_ir as ir

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_PASSED = ("Transpose", "Cast", "Identity", *QUANTIZERS)


def trace_constant(
    value: ir.Value | None,
) -> tuple[ir.Value, tuple[ir.Node, ...], bool] | None:
    """Follows a node's input back to a constant, through nodes that only convert or transpose.

    Returns:
        The constant, the nodes between in order, and whether they transpose it; None where other
        nodes are between, or no constant is at the end.
    """
    chain: list[ir.Node] = []
    turned = False
    while value is not None:
        producer = value.producer()
        if producer is None:
            return (value, tuple(chain[::-1]), turned) if value.is_initializer() else None
        if producer.op_type == "Constant" and value.const_value is not None:
            return value, tuple(chain[::-1]), turned
        if producer.op_type not in _PASSED or producer.domain not in ("", "ai.onnx"):
            return None
        if producer.op_type == "Transpose":
            if list(producer.attributes.get_ints("perm", [1, 0])) != [1, 0]:
                return None
            turned = not turned
        chain.append(producer)
        value = producer.inputs[0]
    return None
