"""Bodies of answers, as OpenAI's clients read them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from kronq.genai.generation import Generation

_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


class Bodies:
    """Writes the bodies of one request's answer.

    Args:
        model: The name that the request gave.
        chat: Whether it is a conversation.
    """

    def __init__(self, model: str, *, chat: bool) -> None:
        self._chat = chat
        kind, prefix = ("chat.completion", "chatcmpl") if chat else ("text_completion", "cmpl")
        self._kind = kind
        self._common = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, generations: Sequence[Generation], prompts: int) -> dict[str, Any]:
        """Returns the body of an answer that is no stream.

        Args:
            generations: All texts, those of one prompt one after the other.
            prompts: Number of prompts.
        """
        choices = [self._whole_choice(i, each) for i, each in enumerate(generations)]
        usage = count_tokens(generations, prompts)
        return {**self._common, "object": self._kind, "choices": choices, "usage": usage}

    def start(self, index: int) -> dict[str, Any] | None:
        """Returns what comes before the first piece of a text, where anything does."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk([self._delta(index, delta)]) if self._chat else None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """Returns a piece of a text."""
        return self._chunk([self._delta(index, {"content": text}, text)])

    def end(self, index: int, generation: Generation) -> dict[str, Any]:
        """Returns the end of a text."""
        return self._chunk([self._delta(index, {}, "", _reason(generation))])

    def usage(self, generations: Sequence[Generation], prompts: int) -> dict[str, Any]:
        """Returns the counts of tokens at the end of a stream."""
        return {**self._chunk([]), "usage": count_tokens(generations, prompts)}

    def _whole_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        reason = _reason(generation)
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": None}
        if self._chat:
            return {**choice, "message": {"role": "assistant", "content": generation.text}}
        return {**choice, "text": generation.text}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else self._kind
        return {**self._common, "object": kind, "choices": choices}

    def _delta(
        self, index: int, delta: dict[str, str], text: str = "", reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "finish_reason": reason, "logprobs": None}
        return {**choice, "delta": delta} if self._chat else {**choice, "text": text}


def count_tokens(generations: Sequence[Generation], prompts: int) -> dict[str, int]:
    """Returns OpenAI's usage; a prompt of several texts counts once."""
    new = sum(len(each.tokens) for each in generations)
    copies = max(1, len(generations) // prompts)
    read = sum(each.prompt_tokens for each in generations[::copies])
    return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def _reason(generation: Generation) -> str:
    return _REASONS.get(generation.stopped, "stop")
