"""Prompts as tokens: plain texts, or messages through the folder's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kronq.errors import ArgumentError, UnsupportedError, check_type

if TYPE_CHECKING:
    import onnxruntime_genai as og

Message = Mapping[str, str]
"""``{"role": "user", "content": "…"}``; roles are those of the template."""
Prompt = str | Sequence[Message]


def encode_prompt(tokenizer: og.Tokenizer, prompt: Prompt, chat: bool = False) -> list[int]:
    """Returns the token ids of a text, or of messages in the folder's chat template.

    Args:
        tokenizer: The folder's tokenizer.
        prompt: A text, or the messages of a conversation.
        chat: Whether a text is a user's message.

    Raises:
        UnsupportedError: The folder has no chat template.
        KronqError: The prompt is empty, or a message has another form.
    """
    check_type("prompt", prompt, str, Sequence)
    if isinstance(prompt, str) and not chat:
        refuse_null(prompt)
        ids = [int(token) for token in tokenizer.encode(prompt)]
    else:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = apply_chat_template(tokenizer, messages)
        ids = drop_second_bos([int(t) for t in tokenizer.encode(text)], tokenizer.bos_token_id)
    if not ids:
        raise ArgumentError("the prompt is empty")
    return ids


def apply_chat_template(tokenizer: og.Tokenizer, messages: Sequence[Message]) -> str:
    """Returns a conversation as the model was trained to read it, up to its next answer."""
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ArgumentError(
                "not a message", found=repr(message), expected='{"role": "user", "content": "…"}'
            )
        for text in message.values():
            refuse_null(text)
    data = json.dumps([dict(message) for message in messages])
    try:
        return str(tokenizer.apply_chat_template(data, add_generation_prompt=True))
    except RuntimeError as error:
        raise UnsupportedError("no usable chat template", found=str(error)) from error


def refuse_null(text: object) -> None:
    """Refuses a text that onnxruntime-genai would read up to its first null character only."""
    if isinstance(text, str) and "\0" in text:
        raise ArgumentError("a null character in the prompt", expected="text without any")


def drop_second_bos(ids: list[int], bos: int) -> list[int]:
    """Drops the begin-of-text token that both the chat template and the tokenizer put first."""
    return ids[1:] if ids[:2] == [bos, bos] else ids
