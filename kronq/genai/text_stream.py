"""Text under generation: pieces that are certain are shown, stop strings end it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime_genai as og


class TextStream:
    """Text that grows by tokens.

    Args:
        decoder: Turns its tokens into pieces of text, one by one.
        ends: Tokens that end the text; they are no part of it.
        stop: Strings that end the text; neither they nor what follows is part of it.
        show: Called with each piece once it is certain that no stop string begins in it.

    Attributes:
        tokens: Tokens so far.
        text: Text so far.
        stopped: ``eos``, ``stop`` or ``length`` when the text is complete, else None.
    """

    def __init__(
        self,
        decoder: og.TokenizerStream,
        ends: Collection[int],
        stop: Sequence[str] = (),
        show: Callable[[str], None] | None = None,
    ) -> None:
        self._decoder = decoder
        self._ends = ends
        self._stop = stop
        self._show = show
        self._shown = 0
        self.tokens: list[int] = []
        self.text = ""
        self.stopped: str | None = None

    def add(self, token: int) -> None:
        """Takes the next token; sets ``stopped`` if it is the last."""
        self.tokens.append(token)
        if token in self._ends:
            self.stopped = "eos"
        else:
            before = len(self.text)
            self.text += self._decoder.decode(token)
            start = max(0, before - max(map(len, self._stop), default=0))
            hits = [i for i in (self.text.find(word, start) for word in self._stop) if i >= 0]
            if hits:
                self.text = self.text[: min(hits)]
                self.stopped = "stop"
        self._show_until(len(self.text) if self.stopped else self._certain_length())

    def finish(self) -> None:
        """Ends the text after its last token."""
        if self.stopped is None:
            self.stopped = "length"
            self._show_until(len(self.text))

    def _certain_length(self) -> int:
        """Returns the length of the text in which no stop string can begin."""
        longest = max(map(len, self._stop), default=1) - 1
        for held in range(min(longest, len(self.text)), 0, -1):
            if any(word.startswith(self.text[-held:]) for word in self._stop):
                return len(self.text) - held
        return len(self.text)

    def _show_until(self, end: int) -> None:
        if self._show is not None and end > self._shown:
            self._show(self.text[self._shown : end])
            self._shown = end
