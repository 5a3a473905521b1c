"""A language model's output layer, for the last token of each row only.

To go on with a text no more is needed. Of a prompt of 128 tokens on SmolLM2-135M the output layer
is a sixth of all work, in exact 4-bit arithmetic a third. onnxruntime-genai takes such a graph: its
own builder writes one with ``prune_lm_head``, which takes the last place of every row: padding in
the shorter rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

LARGEST_GRAPH = 2**26
"""Bytes of an .onnx file that is read here; a larger one has its weights inside."""
OPSET = 18
"""From here on ReduceMax takes its axes as an input."""

_BY_TOKEN = {
    *("Add", "Cast", "Concat", "Div", "Identity", "MatMul", "MatMulNBits", "Mul", "ReduceSum"),
    *("Reshape", "Sub", "Tanh", "Where"),
}
"""Operators of an output layer, which compute every token by itself."""
_OWN = "kronq"
_NORM = "LayerNormalization"


def last_token_graph(file: Path, logits: str, mask: str) -> bytes | None:
    """Returns a model's graph that computes the logits [batch, 1, vocabulary] of the last tokens.

    Args:
        file: The .onnx file, whose weights lie in other files. It is not changed.
        logits: Name of the output [batch, tokens, vocabulary].
        mask: Name of the input [batch, tokens], 0 for padding on the right.

    Returns:
        The serialized model; None where the graph is not as it is expected: then it computes what
        it always does.
    """
    if file.stat().st_size > LARGEST_GRAPH:
        return None
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception:  # protobuf's own error; ONNX Runtime says what is wrong with the file
        return None
    opset = next((each.version for each in model.opset_import if each.domain == ""), 0)
    outputs = [value for value in model.graph.output if value.name == logits]
    masks = [value for value in model.graph.input if value.name == mask]
    if opset < OPSET or not outputs or not masks:
        return None
    shape = outputs[0].type.tensor_type.shape
    if len(shape.dim) != 3 or shape.dim[1].HasField("dim_value"):
        return None
    found = _output_layer(model.graph, logits)
    if found is None:
        return None
    hidden, layer = found
    _choose_last(model.graph, hidden, layer, masks[0])
    shape.dim[1].Clear()
    shape.dim[1].dim_value = 1  # by which onnxruntime-genai knows
    return bytes(model.SerializeToString())


def _output_layer(graph: onnx.GraphProto, logits: str) -> tuple[str, list[int]] | None:
    """Returns the final norm's output, and the places of all nodes between it and the logits.

    None where another node reads one of their values, or not every one computes by token.
    """
    producers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    fed = {value.name for value in graph.input} - {each.name for each in graph.initializer}
    hidden: set[str] = set()
    layer: set[int] = set()
    waiting = [logits]
    while waiting:
        name = waiting.pop()
        if name in fed:
            return None
        place = producers.get(name)
        if place is None or place in layer:
            continue
        node = graph.node[place]
        if node.op_type.endswith(_NORM):
            hidden.add(name)
        elif node.op_type in _BY_TOKEN or node.domain == _OWN:
            layer.add(place)
            waiting += [each for each in node.input if each]
        elif node.op_type not in ("Constant", "Transpose"):
            return None
    inside = {name for place in layer for name in graph.node[place].output}
    read_elsewhere = {
        name for place, node in enumerate(graph.node) if place not in layer for name in node.input
    }
    elsewhere = read_elsewhere | ({value.name for value in graph.output} - {logits})
    if len(hidden) != 1 or not layer or elsewhere & (inside | hidden):
        return None
    return hidden.pop(), sorted(layer)


def _choose_last(
    graph: onnx.GraphProto, hidden: str, layer: Iterable[int], mask: onnx.ValueInfoProto
) -> None:
    """Puts the choice of the last tokens before the output layer, in place.

    The longest row ends at the last token; a row ends as many places before as it is shorter. When
    rows go on token by token, there is one place only.
    """
    first = min(layer)
    for place in layer:
        node = graph.node[place]
        node.input[:] = [f"{_OWN}:last" if name == hidden else name for name in node.input]
    inside = {name for place in layer for name in graph.node[place].output}
    kept = [value for value in graph.value_info if value.name not in inside]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for node in reversed(_nodes(hidden, mask.name)):
        graph.node.insert(first, node)


def _nodes(hidden: str, mask: str) -> list[onnx.NodeProto]:
    """Returns nodes that make ``kronq:last`` [batch, 1, width] of hidden [batch, tokens, width]."""
    make, own = onnx.helper.make_node, f"{_OWN}:".__add__
    zero, one, end = own("zero"), own("one"), own("end")
    nodes = [
        make("Constant", [], [zero], value_ints=[0]),
        make("Constant", [], [one], value_ints=[1]),
        make("Constant", [], [end], value_ints=[-1]),
        make("Cast", [mask], [own("mask")], to=onnx.TensorProto.INT64),
        make("ReduceSum", [own("mask"), one], [own("lengths")], keepdims=1),
        make("ReduceMax", [own("lengths"), zero], [own("longest")], keepdims=1),
        make("Sub", [own("lengths"), own("longest")], [own("behind")]),
        make("Shape", [hidden], [own("tokens")], start=1, end=2),
        make("Sub", [own("tokens"), one], [own("final")]),
        make("Add", [own("final"), own("behind")], [own("place")]),
        make("Max", [own("place"), zero], [own("index")]),
        make("Unsqueeze", [own("index"), end], [own("indices")]),
        make("GatherND", [hidden, own("indices")], [own("last")], batch_dims=1),
    ]
    for node in nodes:
        node.name = f"{node.output[0]}/{node.op_type}"
    return nodes
