"""The graph that an engine opens: the folder's own, changed in memory to what an engine runs."""

from __future__ import annotations

import onnx

from kronq.engine.check_graph import LOGITS, MASK
from kronq.errors import UnsupportedError
from kronq.onnx.last_token import last_token_graph
from kronq.onnx.model_files import ModelFiles
from kronq.onnx.slots.pool_inputs import POOL, ROWS, TAGS
from kronq.onnx.slots.slot_spec import PACKED, SlotSpec

_POOL_INPUTS = (POOL, ROWS, TAGS)
_ONE, _EACH = "RecordSlots", "PoolSlots"


def engine_graph(files: ModelFiles, *, pool: bool) -> bytes | None:
    """Returns the graph to open in place of the file's own; None where that is opened as it is.

    Of a prompt the last token alone goes through the output layer. With ``pool``, operators that
    take one adapter for all rows become those that take one for each: the form slots runs as the
    form pool does.

    Args:
        files: The model.
        pool: Whether rows name their adapters.

    Raises:
        UnsupportedError: The model has no compiled slots.
    """
    graph = last_token_graph(files.model, LOGITS, MASK)
    if not pool:
        return graph
    slots = SlotSpec.read(files.folder)
    if slots.stacked:
        return graph
    if slots.kernel is None:
        raise UnsupportedError(
            "rows with adapters of their own take compiled operators",
            path=files.folder,
            found="slots of ONNX's own operators",
            hint="export it again, with {form=pool}",
        )
    if graph is None:
        model = onnx.load(files.model, load_external_data=False)
    else:
        model = onnx.load_model_from_string(graph)
    _take_pool(model.graph)
    return bytes(model.SerializeToString())


def row_input_names(files: ModelFiles) -> frozenset[str]:
    """Returns the inputs by which the rows of an engine's graph name their adapters."""
    slots = SlotSpec.read(files.folder)
    if slots.stacked:
        return frozenset([ROWS, TAGS]) | slots.input_names
    return frozenset(_POOL_INPUTS)


def _take_pool(graph: onnx.GraphProto) -> None:
    if POOL in {value.name for value in graph.input}:
        return
    for node in graph.node:
        if node.op_type.startswith(_ONE):
            node.op_type = _EACH + node.op_type.removeprefix(_ONE)
            node.input[:] = [*(name for name in node.input if name != PACKED), *_POOL_INPUTS]
    for kept in (graph.input, graph.initializer):
        for value in [each for each in kept if each.name == PACKED]:
            kept.remove(value)
    graph.input.append(_input(POOL, onnx.TensorProto.UINT8, "bytes"))
    graph.input.append(_input(ROWS, onnx.TensorProto.INT64, "batch_size"))
    graph.input.append(_input(TAGS, onnx.TensorProto.INT64, "batch_size"))


def _input(name: str, kind: int, size: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, [size])
