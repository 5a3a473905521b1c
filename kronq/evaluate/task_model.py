"""A base that many adapters are scored on: loaded once, another adapter in milliseconds."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Unpack

import numpy as np
import onnx_ir as ir

from kronq.errors import StrPath, UnsupportedError
from kronq.evaluate.open_base import Feeds, Frame, feeds_of, frame_of, open_branches, plain
from kronq.genai.session import Session
from kronq.genai.token_inputs import IntArray, make_token_inputs
from kronq.model.adapter import Adapter
from kronq.model.matrix import F32
from kronq.onnx.folder import load_base
from kronq.onnx.graph.match import fit, match
from kronq.onnx.graph.sites import Site, find_sites
from kronq.onnx.model_files import ModelFiles, find_model
from kronq.onnx.providers import ExecutionOptions, choose_target
from kronq.onnx.sessions import open_session, run_session

if TYPE_CHECKING:
    import onnxruntime as ort

LOGITS = "logits"
ROWS = "kronq:rows"


class TaskModel:
    """One base, and one adapter at a time beside it.

    Args:
        base: A model folder with its tokenizer, as ``kronq base`` writes it.
        execution: ``device``, ``provider``, ``provider_options`` and ``threads``, as ``Session``
            takes them.

    Raises:
        KronqError: No model there, or no such device.
    """

    def __init__(self, base: StrPath, **execution: Unpack[ExecutionOptions]) -> None:
        self.files: ModelFiles = find_model(base)
        self.target = choose_target(**execution)
        self._words = Session(base, device="cpu")
        self._frame: Frame | None = None
        self._feeds: Feeds = {}
        self._session: ort.InferenceSession | None = None
        self._narrow = False

    @cached_property
    def context(self) -> int | None:
        """The most tokens that the model reads, where its folder says so."""
        found = self.files.genai.get("model", {}).get("context_length")
        return found if isinstance(found, int) else None

    @cached_property
    def _sites(self) -> list[Site]:
        return find_sites(load_base(self.files.model))

    def tokenize(self, text: str) -> list[int]:
        return self._words.tokenize(text) if text else []

    def use(self, adapter: Adapter | None) -> None:
        """Has the base answer with this adapter from now on; None takes it away.

        Adapters of one shape, whatever their rank, share a graph: only arrays are exchanged.

        Raises:
            MismatchError: The adapter does not belong to this base.
        """
        if adapter is None:
            if self._session is None:
                self._open(None)
            self._feeds = {name: np.zeros_like(array) for name, array in self._feeds.items()}
            return
        fitted = plain(fit(adapter, match(adapter, self._sites)))
        if self._session is None or frame_of(fitted) != self._frame:
            self._open(fitted)
        self._feeds = feeds_of(fitted)

    def predict(self, ids: IntArray, mask: IntArray, rows: IntArray) -> F32:
        """What the model predicts after some tokens.

        Args:
            ids: [batch, tokens], padded on the right.
            mask: [batch, tokens], 1 for a token and 0 for padding.
            rows: [n], positions in ``ids`` read row by row.

        Returns:
            Logits [n, vocabulary].
        """
        session = self._session
        if session is None:
            self.use(None)
            return self.predict(ids, mask, rows)
        others = {**self._feeds}
        if self._narrow:
            others[ROWS] = rows.astype(np.int64)
        feed = make_token_inputs(session, self.files, ids, mask, others)
        found = run_session(session, self.files.model, [LOGITS], feed | others)[0]
        flat = found.reshape(-1, found.shape[-1]).astype(np.float32, copy=False)
        return flat if self._narrow else flat[rows]

    def _open(self, adapter: Adapter | None) -> None:
        """The base in ONNX Runtime, with open branches of the shapes of a plain adapter."""
        self._session = None  # two at once would take twice the base's memory
        model = load_base(self.files.model)
        self._narrow = narrow(model)
        if adapter is not None:
            open_branches(model, adapter, match(adapter, find_sites(model)))
        data = ir.to_proto(model).SerializeToString()
        self._session = open_session(self.files.model, self.target, model=data)
        self._frame = None if adapter is None else frame_of(adapter)


def narrow(model: ir.Model) -> bool:
    """Has the last layer work on asked positions alone, in place: ``kronq:rows`` [n].

    Answers are a few tokens of a text, and a vocabulary is large: on SmolLM2-135M the last layer is
    a fifth of all work.

    Returns:
        Whether that was possible; else the model is as it was.

    Raises:
        UnsupportedError: The model gives no logits.
    """
    output = next((value for value in model.graph.outputs if value.name == LOGITS), None)
    if output is None:
        raise UnsupportedError("not a language model: no output named logits")
    casts, node = [output], output.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        casts.append(node.inputs[0])
        node = node.inputs[0].producer()
    if node is None or node.op_type not in ("MatMul", "MatMulNBits") or node.graph is None:
        return False
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 3 or not isinstance(x.shape[2], int):
        return False
    width = x.shape[2]
    rows = ir.Value(name=ROWS, shape=ir.Shape(["rows"]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(rows)
    shape = ir.node("Constant", [], {"value_ints": [-1, width]}, name="kronq:flat")
    flat = ir.node("Reshape", [x, shape.outputs[0]], name="kronq:flatten")
    chosen = ir.node("Gather", [flat.outputs[0], rows], {"axis": 0}, name="kronq:choose")
    axes = ir.node("Constant", [], {"value_ints": [0]}, name="kronq:first")
    back = ir.node("Unsqueeze", [chosen.outputs[0], axes.outputs[0]], name="kronq:batch")
    picked = back.outputs[0]
    picked.shape, picked.type = ir.Shape([1, "rows", width]), x.type
    node.graph.insert_before(node, [shape, flat, chosen, axes, back])
    node.replace_input_with(0, picked)
    for value in casts:
        if value.shape is not None:
            value.shape = ir.Shape([1, "rows", value.shape[-1]])
    return True
