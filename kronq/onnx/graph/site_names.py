"""Names that a linear layer has in the base."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"

_WEIGHT = re.compile(r"(?:[./](?:MatMul|Gemm|linear|Linear))?[./](?:weight|kernel)$")
_QUANTIZED = re.compile(r"(?:_DQ)?_(?:quantized|Q[48])$")
"""Endings that onnxruntime's quantizers append to a weight's name."""


def site_names(node: ir.Node, weight: ir.Value | None) -> Iterator[str]:
    """Yields the layer's names: of the module that the node was made from, or node and weight."""
    scopes = node.metadata_props.get(SCOPES)
    if scopes:
        try:
            path = ast.literal_eval(scopes)[-2]
        except (ValueError, SyntaxError, LookupError, TypeError, RecursionError, MemoryError):
            path = ""
        if path:
            # The exporter states the module itself; the name of a tied weight may be another's.
            yield str(path)
            return
    if node.name:
        scope = node.name.strip("/")
        yield scope.rsplit("/", 1)[0] if "/" in scope else scope
    if weight is not None and weight.name:
        yield _WEIGHT.sub("", _QUANTIZED.sub("", weight.name))
