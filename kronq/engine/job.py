"""A text that an engine writes: waiting, reading its prompt, in the batch, or done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kronq.engine.sampler import choose_token
from kronq.errors import KronqError
from kronq.genai.generation import Generation
from kronq.genai.sampling import GenerationSettings
from kronq.genai.text_stream import TextStream
from kronq.pool.entry import Entry

if TYPE_CHECKING:
    import onnxruntime_genai as og


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Listener:
    """Functions that an engine calls, in the thread that runs its steps.

    Attributes:
        text: Called with each piece of text that is certain.
        done: Called with the job once it is done.
    """

    text: Callable[[str], None] = _ignore
    done: Callable[[Job], None] = _ignore


class Job:
    """One text of an engine.

    Args:
        tokens: The prompt.
        adapter: What its row runs with; None for the base alone.
        settings: Length, sampling and stop strings.
        tokenizer: The model's tokenizer.
        listener: What is told of the text.

    Attributes:
        tokens: Tokens of the prompt.
        adapter: What its row runs with.
        read: Tokens of the prompt and of the text that are in the KV cache.
        cancelled: Whether the text is not wanted any more.
        error: Why there is no text, once it is done.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        adapter: Entry | None,
        settings: GenerationSettings,
        tokenizer: og.Tokenizer,
        listener: Listener,
    ) -> None:
        self.tokens = tuple(tokens)
        self.adapter = adapter
        self.settings = settings
        self.read = 0
        self.cancelled = False
        self.error: KronqError | None = None
        self._listener = listener
        self._done = threading.Event()
        seed = settings.sampling.seed
        self._random = np.random.default_rng(None if seed is None else seed % 2**64)
        ends = set(tokenizer.eos_token_ids)
        stream = tokenizer.create_stream()
        self._text = TextStream(stream, ends, settings.stop, listener.text)
        self._times = dict.fromkeys(("begin", "first", "end"), time.perf_counter())

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @property
    def last_token(self) -> int:
        """Token that is read next."""
        return self._text.tokens[-1]

    def cancel(self) -> None:
        """Asks that the text end; its row is free before the next run."""
        self.cancelled = True

    def wait(self, timeout: float | None = None) -> Generation:
        """Waits for the text, which another thread's steps write.

        Raises:
            KronqError: There is none: the row failed.
            TimeoutError: It is not done after ``timeout`` seconds.
        """
        if not self._done.wait(timeout):
            raise TimeoutError("the text is not done")
        return self.generation

    @property
    def generation(self) -> Generation:
        """The text so far, with its timings.

        Raises:
            KronqError: There is none: the row failed.
        """
        if self.error is not None:
            raise self.error
        return Generation(
            text=self._text.text,
            tokens=tuple(self._text.tokens),
            prompt_tokens=len(self.tokens),
            prefill_seconds=self._times["first"] - self._times["begin"],
            decode_seconds=self._times["end"] - self._times["first"],
            stopped="cancelled" if self.cancelled else str(self._text.stopped),
            provider="CPUExecutionProvider",
        )

    def add(self, logits: np.ndarray, context: int) -> bool:
        """Takes the next token; returns whether it is the last.

        Args:
            logits: [vocabulary].
            context: Tokens that prompt and text have room for.

        Raises:
            KronqError: The logits are no numbers.
        """
        self._text.add(choose_token(logits, self.settings.sampling, self._random))
        now = time.perf_counter()
        count = len(self._text.tokens)
        if count == 1:
            self._times["first"] = now
        self._times["end"] = now
        room = min(self.settings.max_tokens, context - len(self.tokens))
        return self._text.stopped is not None or count >= room

    def finish(self, error: KronqError | None = None) -> None:
        """Ends the text and tells the listener."""
        self.error = error
        if error is None and not self.cancelled:
            self._text.finish()
        self._done.set()
        self._listener.done(self)
