"""Runs of a model over rows of different lengths: one row's prompt, or a token of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.engine.cache_buffers import PAST, CacheBuffers
from kronq.engine.check_graph import LOGITS, MASK, POSITIONS, TOKENS, check_graph
from kronq.engine.graph import engine_graph, row_input_names
from kronq.errors import KronqError, UnsupportedError, listing
from kronq.genai.token_inputs import DTYPES
from kronq.onnx.model_files import ModelFiles
from kronq.onnx.providers import ExecutionTarget
from kronq.onnx.sessions import open_session

if TYPE_CHECKING:
    import onnxruntime as ort

Arrays = Mapping[str, NDArray[Any]]


class BatchDecoder:
    """Model whose rows lie in one KV cache; a run takes a range of them.

    Args:
        files: The model.
        rows: Rows of the KV cache.
        context: Tokens that a row has room for.
        threads: Threads within one operator; None leaves it to ONNX Runtime.
        pool: Whether every run is given ``row_input_names``.

    Raises:
        UnsupportedError: The model does not batch rows of different lengths.
    """

    def __init__(
        self,
        files: ModelFiles,
        rows: int,
        context: int,
        threads: int | None,
        *,
        pool: bool = False,
    ) -> None:
        check_graph(files)
        self._files = files
        graph = engine_graph(files, pool=pool)
        self._session = open_session(files.model, ExecutionTarget(threads=threads), model=graph)
        inputs = self._session.get_inputs()
        self._types = {node.name: DTYPES.get(node.type) for node in inputs}
        known = {TOKENS, MASK, POSITIONS, *(row_input_names(files) if pool else ())}
        strange = [n.name for n in inputs if n.name not in known and not n.name.startswith(PAST)]
        if strange or len(self._shape(POSITIONS)) > 2:
            raise UnsupportedError(
                "inputs that do not follow from tokens",
                path=files.model,
                found=listing(strange or [POSITIONS]),
            )
        logits = next(node for node in self._session.get_outputs() if node.name == LOGITS)
        self._logits_type = DTYPES[logits.type]
        self._vocabulary = int(logits.shape[-1])
        self._last_only = logits.shape[1] == 1
        self.cache = CacheBuffers(inputs, files, rows, context)
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}
        self._bound: dict[tuple[int, int], dict[str, NDArray[Any]]] = {}

    def read(self, row: int, tokens: Sequence[int], begin: int, given: Arrays) -> NDArray[Any]:
        """Reads a part of a row's prompt.

        Args:
            row: The row.
            tokens: The part.
            begin: Tokens of the row that were read before it.
            given: Further inputs, for this one row.

        Returns:
            Logits [vocabulary] of the token after the part.
        """
        ids = np.array([tokens])
        logits: NDArray[Any] = self._run(row, ids, np.array([begin + len(tokens)]), given)[0, -1]
        return logits

    def decode(self, tokens: Sequence[int], lengths: Sequence[int], given: Arrays) -> NDArray[Any]:
        """Reads one token of each of the first rows.

        Args:
            tokens: A token of each row.
            lengths: Tokens of each row, this one counted.
            given: Further inputs, for these rows.

        Returns:
            Logits [rows, vocabulary].
        """
        return self.decode_from(0, tokens, lengths, given)

    def decode_from(
        self, first: int, tokens: Sequence[int], lengths: Sequence[int], given: Arrays
    ) -> NDArray[Any]:
        """Reads one token of each row of a range; as ``decode`` otherwise."""
        return self._run(first, np.array(tokens)[:, None], np.array(lengths), given)[:, -1]

    def _run(
        self, first: int, ids: NDArray[Any], lengths: NDArray[Any], given: Arrays
    ) -> NDArray[Any]:
        """Runs rows whose lengths after the run are ``lengths``."""
        count, width = ids.shape
        binding = self._binding(first, count)
        feed = {**self._token_inputs(ids, lengths), **given}
        bound = self._bound[first, count]
        for name, array in feed.items():
            if bound.get(name) is array:
                continue
            bound[name] = array
            place = ("cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
            binding.bind_input(name, *place)
        logits = np.empty(
            (count, 1 if self._last_only else width, self._vocabulary), self._logits_type
        )
        place = ("cpu", 0, logits.dtype.type, list(logits.shape), logits.ctypes.data)
        binding.bind_output(LOGITS, *place)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise KronqError(
                "ONNX Runtime cannot run the model", path=self._files.model, found=str(error)
            ) from error
        return logits

    def _token_inputs(self, ids: NDArray[Any], lengths: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Returns tokens, a mask that is padded on the right, and positions where there are any."""
        arrays = {
            TOKENS: ids,
            MASK: np.arange(lengths.max()) < lengths[:, None],
            POSITIONS: lengths[:, None] - ids.shape[1] + np.arange(ids.shape[1]),
        }
        return {
            name: np.ascontiguousarray(array, self._types[name])
            for name, array in arrays.items()
            if name in self._types
        }

    def _binding(self, first: int, count: int) -> ort.IOBinding:
        """Returns the binding of a range of rows, whose caches stay bound."""
        if (first, count) not in self._bindings:
            binding = self._session.io_binding()
            self.cache.bind(binding, first, count)
            self._bindings[first, count], self._bound[first, count] = binding, {}
        return self._bindings[first, count]

    def _shape(self, name: str) -> Sequence[object]:
        return next((node.shape for node in self._session.get_inputs() if node.name == name), ())
