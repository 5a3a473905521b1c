"""Prompts as tokens: plain texts, or messages through the folder's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kronq.errors import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    import onnxruntime_genai as og

Message = Mapping[str, str]
"""``{"role": "user", "content": "…"}``; roles are those of the template."""
Prompt = str | Sequence[Message]


def encode_prompt(tokenizer: og.Tokenizer, prompt: Prompt, chat: bool = False) -> list[int]:
    """Token ids of a text, or of messages in the folder's chat template.

    Args:
        tokenizer: The folder's.
        prompt: A text, or the messages of a conversation.
        chat: A text is a user's message.

    Raises:
        UnsupportedError: The folder has no chat template.
        KronqError: Nothing to continue, or messages that are none.
    """
    if isinstance(prompt, str) and not chat:
        ids = [int(token) for token in tokenizer.encode(prompt)]
    else:
        said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = through_template(tokenizer, said)
        ids = without_second_bos([int(t) for t in tokenizer.encode(text)], tokenizer.bos_token_id)
    if not ids:
        raise ArgumentError("the prompt is empty")
    return ids


def through_template(tokenizer: og.Tokenizer, messages: Sequence[Message]) -> str:
    """A conversation as the model was trained to read it, up to where it is to answer."""
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ArgumentError(
                "not a message", found=repr(message), expected='{"role": "user", "content": "…"}'
            )
    told = json.dumps([dict(message) for message in messages])
    try:
        return str(tokenizer.apply_chat_template(told, add_generation_prompt=True))
    except RuntimeError as error:
        raise UnsupportedError("no usable chat template", found=str(error)) from error


def without_second_bos(ids: list[int], bos: int) -> list[int]:
    """A chat template may begin with the token that the tokenizer puts first anyway."""
    return ids[1:] if ids[:2] == [bos, bos] else ids
