"""One text while it is generated: what may be shown already, and whether it is over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime_genai as og


class Writing:
    """A text that grows by tokens.

    Args:
        decoder: Turns its tokens into pieces of text, one by one.
        ends: Tokens that end it; they are no part of the text.
        stop: Strings that end it; neither they nor what follows is part of the text.
        stream: Called with each piece once it is certain that no stop string begins in it.
    """

    def __init__(
        self,
        decoder: og.TokenizerStream,
        ends: Collection[int],
        stop: Sequence[str] = (),
        stream: Callable[[str], None] | None = None,
    ) -> None:
        self._decoder = decoder
        self._ends = ends
        self._stop = stop
        self._stream = stream
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
            begun = max(0, before - max(map(len, self._stop), default=0))
            found = [i for i in (self.text.find(word, begun) for word in self._stop) if i >= 0]
            if found:
                self.text = self.text[: min(found)]
                self.stopped = "stop"
        self._show(len(self.text) if self.stopped else self._certain())

    def finish(self) -> None:
        """There are no more tokens."""
        if self.stopped is None:
            self.stopped = "length"
            self._show(len(self.text))

    def _certain(self) -> int:
        """How much of the text no stop string can begin in."""
        longest = max(map(len, self._stop), default=1) - 1
        for held in range(min(longest, len(self.text)), 0, -1):
            if any(word.startswith(self.text[-held:]) for word in self._stop):
                return len(self.text) - held
        return len(self.text)

    def _show(self, until: int) -> None:
        if self._stream is not None and until > self._shown:
            self._stream(self.text[self._shown : until])
            self._shown = until
