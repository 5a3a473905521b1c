"""Arrays through a model in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, UnsupportedError, listing
from kronq.genai.token_inputs import IntArray, as_batch, make_token_inputs
from kronq.onnx.model_files import ModelFiles
from kronq.onnx.providers import RECORD_NODES, ExecutionTarget, count_nodes
from kronq.onnx.sessions import open_session, run_session

if TYPE_CHECKING:
    import onnxruntime as ort

Arrays = Mapping[str, NDArray[Any]]
Shapes = dict[str, list[int | str | None]]
LOGITS = "logits"


@dataclass(frozen=True)
class SessionReport:
    """Provider and threads that a session runs with.

    Attributes:
        model: The .onnx file.
        provider: The preferred execution provider.
        nodes: Nodes of the optimized graph by the provider that runs them.
        threads: Threads within one operator; None where ONNX Runtime chose.
    """

    model: Path
    provider: str
    nodes: Mapping[str, int]
    threads: int | None


class ArrayRunner:
    """Model that is opened in onnxruntime when it is first used.

    Args:
        files: The model.
        target: Provider and threads.
    """

    def __init__(self, files: ModelFiles, target: ExecutionTarget) -> None:
        self.files = files
        self.target = target

    @cached_property
    def session(self) -> ort.InferenceSession:
        return open_session(self.files.model, self.target, config=RECORD_NODES)

    @cached_property
    def report(self) -> SessionReport:
        nodes = count_nodes(self.session)
        return SessionReport(self.files.model, self.target.provider, nodes, self.target.threads)

    @property
    def inputs(self) -> Shapes:
        return {node.name: list(node.shape) for node in self.session.get_inputs()}

    @property
    def outputs(self) -> Shapes:
        return {node.name: list(node.shape) for node in self.session.get_outputs()}

    def run(
        self, inputs: Arrays, outputs: Sequence[str] | None, options: ort.RunOptions | None
    ) -> dict[str, NDArray[Any]]:
        """Runs the model once; see ``Session.run``."""
        optional = {node.name for node in self.session.get_overridable_initializers()}
        names = list(self.outputs) if outputs is None else list(outputs)
        self._refuse("inputs missing", self.inputs.keys() - inputs.keys(), self.inputs)
        self._refuse("unknown inputs", inputs.keys() - self.inputs.keys() - optional, self.inputs)
        self._refuse("unknown outputs", set(names) - self.outputs.keys(), self.outputs)
        values = run_session(self.session, self.files.model, names, inputs, options)
        return dict(zip(names, values, strict=True))

    def logits(
        self,
        input_ids: IntArray | Sequence[int],
        attention_mask: IntArray | None,
        extra: Arrays,
        options: ort.RunOptions | None,
    ) -> NDArray[np.float32]:
        """Returns logits [batch, tokens, vocabulary]; see ``Session.logits``."""
        if LOGITS not in self.outputs:
            raise UnsupportedError(
                "not a language model: no output named logits",
                path=self.files.model,
                found=listing(self.outputs),
                hint="Session.run gives any outputs",
            )
        ids = as_batch(input_ids)
        feed = make_token_inputs(self.session, self.files, ids, attention_mask, extra)
        logits = self.run({**feed, **extra}, [LOGITS], options)[LOGITS]
        return logits.astype(np.float32, copy=False)

    def _refuse(self, message: str, names: set[str], expected: Mapping[str, Any]) -> None:
        if names:
            raise ArgumentError(
                message, path=self.files.model, found=listing(names), expected=listing(expected)
            )
