"""Text through a model in onnxruntime-genai."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kronq.genai.generation import Generation, generate
from kronq.genai.prompts import Message, Prompt, apply_chat_template, encode_prompt, refuse_null
from kronq.genai.sampling import GenerationSettings
from kronq.genai.text_model import TextModel, load_text_model, load_tokenizer
from kronq.genai.token_inputs import IntArray
from kronq.onnx.model_files import ModelFiles
from kronq.onnx.providers import ExecutionTarget

if TYPE_CHECKING:
    import onnxruntime_genai as og


class TextRunner:
    """Model whose tokenizer and weights are read when they are first used.

    Args:
        files: The model.
        target: Provider and threads.
    """

    def __init__(self, files: ModelFiles, target: ExecutionTarget) -> None:
        self.files = files
        self.target = target
        self._opening = threading.Lock()

    @cached_property
    def tokenizer(self) -> og.Tokenizer:
        return load_tokenizer(self.files)

    @property
    def model(self) -> TextModel:
        with self._opening:  # threads share one model, to which adapters are loaded
            return self._model

    @cached_property
    def _model(self) -> TextModel:
        return load_text_model(self.files, self.target)

    def encode(self, text: str) -> list[int]:
        refuse_null(text)
        return [int(token) for token in self.tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int] | IntArray) -> str:
        return str(self.tokenizer.decode(np.asarray(tokens, np.int32)))

    def chat_text(self, messages: Sequence[Message]) -> str:
        return apply_chat_template(self.tokenizer, messages)

    def generate(
        self,
        prompts: Sequence[Prompt],
        settings: GenerationSettings,
        *,
        chat: bool,
        stream: Callable[[str], None] | None,
        activate: Callable[[og.Generator], object],
    ) -> list[Generation]:
        """Continues prompts side by side; see ``Session.generate``."""
        ids = [encode_prompt(self.tokenizer, prompt, chat) for prompt in prompts]
        return generate(self.model, self.tokenizer, ids, settings, stream=stream, activate=activate)
