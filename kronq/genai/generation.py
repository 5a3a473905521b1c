"""Text generation, token by token, through onnxruntime-genai."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, KronqError, UnsupportedError
from kronq.genai.sampling import GenerationSettings
from kronq.genai.text_model import TextModel, import_genai
from kronq.genai.text_stream import TextStream
from kronq.onnx.genai_config import cache_window

if TYPE_CHECKING:
    import onnxruntime_genai as og


@dataclass(frozen=True)
class Generation:
    """Generated text with its timings.

    Attributes:
        text: The text, without the prompt and without end-of-text tokens.
        tokens: Generated tokens, a final end-of-text token included.
        prompt_tokens: Tokens of the prompt.
        prefill_seconds: Time to read the prompt, up to the first generated token.
        decode_seconds: Time of every token after the first, for all prompts of a batch together.
        stopped: ``eos`` (the model ended the text), ``stop`` (a stop string came) or ``length``
            (``max_tokens``, or the context is full).
        provider: The execution provider that the model ran on.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float
    stopped: str
    provider: str

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.prompt_tokens / self.prefill_seconds

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Speed after the first token; None when there was no second token to time."""
        if len(self.tokens) < 2:
            return None
        return (len(self.tokens) - 1) / self.decode_seconds


def generate(
    model: TextModel,
    tokenizer: og.Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    stream: Callable[[str], None] | None = None,
    activate: Callable[[og.Generator], object] | None = None,
) -> list[Generation]:
    """Continues prompts side by side until the model ends each or ``max_tokens`` are reached.

    Args:
        model: The opened model.
        tokenizer: Its tokenizer.
        prompts: Token ids. Several prompts are padded on the right, as onnxruntime-genai does it.
        settings: Length, sampling and stop strings.
        stream: Called with each piece of the first text as it comes.
        activate: Called with the generator before it reads its prompts, to activate an adapter;
            what it returns is kept to the end.

    Raises:
        KronqError: A prompt leaves no room, or onnxruntime-genai fails.
    """
    ends = set(tokenizer.eos_token_ids)
    texts = [
        TextStream(tokenizer.create_stream(), ends, settings.stop, None if row else stream)
        for row in range(len(prompts))
    ]
    begin = first = time.perf_counter()
    generator = _start_generator(model, prompts, settings)
    try:
        kept = None if activate is None else activate(generator)
        generator.append_tokens(pad_prompts(prompts, tokenizer.pad_token_id))
        for _ in range(settings.max_tokens):
            if generator.is_done() or all(text.stopped for text in texts):
                break
            generator.generate_next_token()
            for text, token in zip(texts, generator.get_next_tokens(), strict=True):
                if text.stopped is None:
                    text.add(int(token))
            if first == begin:
                first = time.perf_counter()
        end = time.perf_counter()
        del kept
    except RuntimeError as error:
        raise KronqError("generation failed", found=str(error)) from error
    for text in texts:
        text.finish()
    return [
        Generation(
            text=text.text,
            tokens=tuple(text.tokens),
            prompt_tokens=len(ids),
            prefill_seconds=first - begin,
            decode_seconds=end - first,
            stopped=str(text.stopped),
            provider=model.provider,
        )
        for text, ids in zip(texts, prompts, strict=True)
    ]


def _start_generator(
    model: TextModel, prompts: Sequence[Sequence[int]], settings: GenerationSettings
) -> og.Generator:
    genai = import_genai()
    context = model.files.model_count("context_length")
    longest = max(map(len, prompts))
    if longest >= context:
        raise ArgumentError(
            "the prompt fills the context", found=f"{longest} tokens", expected=f"under {context}"
        )
    window = cache_window(model.files.genai)
    if window and min(map(len, prompts)) < longest:
        raise UnsupportedError(
            "a base with a windowed KV cache takes prompts of one length side by side",
            path=model.files.model,
            hint="{build_base} makes a base without such a cache",
        )
    try:
        params = genai.GeneratorParams(model.genai)
        params.set_search_options(
            max_length=min(max(longest + settings.max_tokens, window), context),
            batch_size=len(prompts),
            **settings.sampling.search_options(),
        )
        return genai.Generator(model.genai, params)
    except RuntimeError as error:
        raise KronqError("generation failed", found=str(error)) from error


def pad_prompts(prompts: Sequence[Sequence[int]], pad: int) -> NDArray[np.int32]:
    """Returns [prompts, tokens of the longest], padded on the right."""
    rows = np.full((len(prompts), max(map(len, prompts))), pad, dtype=np.int32)
    for row, ids in zip(rows, prompts, strict=True):
        row[: len(ids)] = ids
    return rows
