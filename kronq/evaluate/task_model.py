"""Base model that is loaded once to score many adapters, each exchanged in milliseconds."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Unpack

import numpy as np
import onnx_ir as ir

from kronq.errors import StrPath
from kronq.evaluate.asked_logits import LOGITS, ROWS, gather_asked_rows
from kronq.evaluate.open_branches import (
    BranchShapes,
    Feeds,
    absorb_scales,
    branch_feeds,
    branch_shapes,
    open_branches,
)
from kronq.genai.session import Session
from kronq.genai.token_inputs import IntArray, make_token_inputs
from kronq.io.extras import require
from kronq.model.adapter import Adapter, check_finite
from kronq.model.base_fingerprint import BaseFingerprint, refuse_other_base
from kronq.model.matrix import F32
from kronq.model.plain import refuse_all_but_deltas, refuse_cores
from kronq.onnx.base_folder import load_base
from kronq.onnx.graph.match import match_layers
from kronq.onnx.graph.refuse_wrong_base import fit_to_base
from kronq.onnx.graph.sites import Site, find_sites
from kronq.onnx.guard_base import guard_base
from kronq.onnx.model_files import ModelFiles, find_model
from kronq.onnx.providers import ExecutionOptions, choose_target
from kronq.onnx.sessions import open_session, run_session
from kronq.onnx.weight_prints import fingerprint, print_weights

if TYPE_CHECKING:
    import onnxruntime as ort


class TaskModel:
    """Language model that scores examples with one adapter at a time.

    Args:
        base: Folder of an ONNX model with its tokenizer, as ``kronq base`` writes it.
        execution: ``device``, ``provider``, ``provider_options`` and ``threads``, as ``Session``
            takes them.

    Raises:
        KronqError: The folder has no model, or the device is not available.
        MissingDependencyError: onnxruntime-genai, whose tokenizer reads the examples, is missing.
    """

    def __init__(self, base: StrPath, **execution: Unpack[ExecutionOptions]) -> None:
        require("genai", "scoring")
        self.files: ModelFiles = find_model(base)
        self.target = choose_target(**execution)
        self._tokenizer = Session(base, device="cpu")
        self._shapes: BranchShapes | None = None
        self._feeds: Feeds = {}
        self._session: ort.InferenceSession | None = None
        self._gathers_rows = False
        self._known: set[BaseFingerprint] = set()

    @property
    def context(self) -> int | None:
        """Largest number of tokens that the model reads; None where its folder does not say."""
        return self.files.context

    @cached_property
    def _sites(self) -> list[Site]:
        return find_sites(load_base(self.files.model))

    def tokenize(self, text: str) -> list[int]:
        """Returns the tokens of a text; none of an empty one."""
        return self._tokenizer.tokenize(text) if text else []

    def use(self, adapter: Adapter | None) -> None:
        """Uses an adapter for predictions from now on; None uses the base alone.

        Adapters with the same shapes, of any rank, share a graph: only arrays are exchanged.

        Raises:
            FormatError: The adapter has values that are not finite.
            MismatchError: The adapter does not belong to this base.
        """
        if adapter is None:
            if self._session is None:
                self._open(None)
            self._feeds = {name: np.zeros_like(array) for name, array in self._feeds.items()}
            return
        check_finite(adapter)
        refuse_cores(adapter, "a task")
        refuse_all_but_deltas(adapter, "a task")
        with guard_base(self.files.model):
            matches = match_layers(adapter, self._sites)
            if adapter.base is not None and adapter.base not in self._known:
                refuse_other_base(adapter.base, self.fingerprint(adapter), self.files.model)
                self._known.add(adapter.base)
        fitted = absorb_scales(fit_to_base(adapter, matches))
        if self._session is None or branch_shapes(fitted) != self._shapes:
            self._open(fitted)
        self._feeds = branch_feeds(fitted)

    def fingerprint(self, adapter: Adapter) -> BaseFingerprint | None:
        """Returns the fingerprint of the weights that an adapter's layers have in this base.

        Raises:
            MismatchError: The adapter does not belong to this base.
        """
        with guard_base(self.files.model):
            matches = match_layers(adapter, self._sites)
            fitted = fit_to_base(adapter, matches)
            return fingerprint(print_weights(matches, {n: d.shape for n, d in fitted.items()}))

    def predict(self, ids: IntArray, mask: IntArray, rows: IntArray) -> F32:
        """Computes the logits after some tokens.

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
        feeds = {**self._feeds}
        if self._gathers_rows:
            feeds[ROWS] = rows.astype(np.int64)
        feeds |= make_token_inputs(session, self.files, ids, mask, feeds)
        logits = run_session(session, self.files.model, [LOGITS], feeds)[0]
        flat = logits.reshape(-1, logits.shape[-1]).astype(np.float32, copy=False)
        return flat if self._gathers_rows else flat[rows]

    def _open(self, adapter: Adapter | None) -> None:
        """Opens a session of the base, with branches of the adapter's shapes."""
        self._session = None  # two at once would take twice the base's memory
        model = load_base(self.files.model)
        with guard_base(self.files.model):
            self._gathers_rows = gather_asked_rows(model, self.files.model)
            if adapter is not None:
                open_branches(model, adapter, match_layers(adapter, find_sites(model)))
            data = ir.to_proto(model).SerializeToString()
        self._session = open_session(self.files.model, self.target, model=data)
        self._shapes = None if adapter is None else branch_shapes(adapter)
