"""Contexts of the range coder: counts of what was coded, and constriction's model made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kronq.errors import MissingDependencyError
from kronq.trellis.context_counts import ContextCounts
from kronq.trellis.layer_shape import I32
from kronq.trellis.stream_layout import Run

BlockCoder = Callable[[Any, int, I32], I32]
"""Codes some codes with one table: (model, largest symbol, codes) → codes."""


class Context:
    """Counts of one context, and the model made of them.

    Args:
        context_class: See ``ContextCounts``.
        odd: Parity of the trellis state.
    """

    def __init__(self, context_class: int, odd: int) -> None:
        self._counts = ContextCounts.prior(context_class, odd)
        self._uncounted: list[I32] = []
        self._model: Any = None

    @property
    def largest(self) -> int:
        """The largest magnitude with a symbol of its own."""
        return self._counts.largest

    @property
    def model(self) -> Any:
        """Constriction's model of the counts so far."""
        if self._model is None:
            categorical = import_constriction().stream.model.Categorical
            self._model = categorical(self._counts.frequencies(), perfect=False)
        return self._model

    def count(self, codes: I32) -> None:
        """Notes codes, which are counted at the next ``renew``."""
        self._uncounted.append(codes)

    def code(self, code_block: BlockCoder, codes: I32) -> I32:
        coded = code_block(self.model, self.largest, codes)
        self.count(coded)
        return coded

    def renew(self) -> None:
        """Counts what was coded since the last time; the next block has a new model."""
        if self._uncounted:
            self._counts.add(np.concatenate(self._uncounted))
            self._uncounted.clear()
            self._model = None


def contexts_of(runs: Sequence[Run]) -> list[Context]:
    """Returns every run's context of even states and that of odd ones; runs may share them."""
    contexts = {
        (r.context_class, odd): Context(r.context_class, odd) for r in runs for odd in (0, 1)
    }
    return [contexts[run.context_class, odd] for run in runs for odd in (0, 1)]


def import_constriction() -> Any:
    """Imports constriction, or says how to install it."""
    try:
        import constriction
    except ImportError:
        raise MissingDependencyError(
            "compact codes need the package constriction, or kronq's library in C",
            hint="pip install constriction; or a C compiler, or a wheel made by 'make wheel'",
        ) from None
    return constriction
