"""Text from a model folder, token by token, through onnxruntime-genai."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, KronqError, MissingDependencyError, UnsupportedError
from kronq.genai.text_stream import Writing
from kronq.io.extras import require
from kronq.onnx.model_files import GENAI_CONFIG, ModelFiles
from kronq.onnx.provider_names import CPU, CUDA, genai_name
from kronq.onnx.providers import Place
from kronq.onnx.sessions import EXACT
from kronq.onnx.slots.kernel import check_library

if TYPE_CHECKING:
    import onnxruntime_genai as og


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked; None leaves it to the folder's genai_config.json.

    Attributes:
        temperature: 0 takes the likeliest token each time (greedy).
        top_p: Only the likeliest tokens that make up this share of the probability.
        top_k: Only this many of the likeliest tokens.
        seed: The same seed gives the same text.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ArgumentError("not a temperature", found=self.temperature, expected="0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ArgumentError("not a top-p", found=self.top_p, expected="more than 0, at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError("not a top-k", found=self.top_k, expected="1 or more")
        if self.temperature == 0 and (self.top_p is not None or self.top_k is not None):
            raise ArgumentError(
                "top-p and top-k do nothing at temperature 0", hint="set a temperature as well"
            )

    def search_options(self) -> dict[str, Any]:
        """In onnxruntime-genai's names."""
        if self.temperature == 0:
            return {"do_sample": False, "num_beams": 1}
        options = {
            "top_p": self.top_p,
            "top_k": self.top_k,
            "random_seed": self.seed,
        }
        given = {name: value for name, value in options.items() if value is not None}
        return {"do_sample": True, "num_beams": 1, "temperature": self.temperature, **given}


@dataclass(frozen=True)
class Generation:
    """A generated text and what it took.

    Attributes:
        text: Without the prompt and without end-of-text tokens.
        tokens: What was generated, a final end-of-text token included.
        prompt_tokens: Tokens of the prompt.
        prefill_seconds: Reading the prompt, up to the first generated token.
        decode_seconds: Every token after the first, of all prompts that were given together.
        stopped: ``eos`` (the model ended it), ``stop`` (a stop string came) or ``length``
            (max_tokens, or the context is full).
        provider: The execution provider the model ran on.
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
        """None when there was no second token to time."""
        if len(self.tokens) < 2:
            return None
        return (len(self.tokens) - 1) / self.decode_seconds


def import_genai() -> Any:
    require("genai", "text", "onnxruntime_genai")
    import onnxruntime_genai

    return onnxruntime_genai


def check_text_folder(files: ModelFiles) -> None:
    """Raises UnsupportedError where the folder is not an onnxruntime-genai model folder."""
    if not files.genai:
        raise UnsupportedError(
            f"no text model: no {GENAI_CONFIG} beside the model",
            path=files.folder,
            hint="{build_base} makes such a folder, and {export_onnx} keeps its files",
        )


def load_tokenizer(files: ModelFiles) -> og.Tokenizer:
    """The folder's tokenizer; the model itself is not read.

    Raises:
        UnsupportedError: The folder is not an onnxruntime-genai model folder.
        KronqError: Its tokenizer files are missing or damaged.
    """
    genai = import_genai()
    check_text_folder(files)
    try:
        return genai.Tokenizer(str(files.folder))
    except RuntimeError as error:
        raise KronqError("no usable tokenizer", path=files.folder, found=str(error)) from error


def load_text_model(files: ModelFiles, place: Place, threads: int | None) -> tuple[og.Model, str]:
    """The model in onnxruntime-genai, and the provider it runs on.

    Args:
        files: A folder with genai_config.json; ``files.model`` may be any .onnx file in it.
        place: Where onnxruntime would run it; CUDA that nobody asked for may end on the CPU for
            want of it here.
        threads: Threads within one operator; None leaves it to ONNX Runtime.

    Raises:
        MissingDependencyError: CUDA was asked for and this onnxruntime-genai cannot do it.
        UnsupportedError: A provider that onnxruntime-genai does not know, or compiled operators
            that were not made on this machine.
        KronqError: The model cannot be loaded, or did not start on the device.
    """
    genai = import_genai()
    library = files.decoder("session_options").get("custom_ops_library")
    if library is not None:
        check_library(files.folder / library)
    provider = place.provider
    if provider == CUDA and not genai.is_cuda_available():
        if place.required:
            raise MissingDependencyError(
                "no CUDA in this onnxruntime-genai",
                hint="pip install onnxruntime-genai-cuda in place of onnxruntime-genai",
            )
        provider = CPU
    name = None if provider == CPU else genai_name(provider)
    # Entries that genai does not know by name go to ONNX Runtime's session configuration.
    options: dict[str, Any] = dict(EXACT)
    if threads is not None:
        options["intra_op_num_threads"] = threads
    decoder = {"filename": files.model.name, "session_options": options}
    try:
        config = genai.Config(str(files.folder))
        config.overlay(json.dumps({"model": {"decoder": decoder}}))
        config.clear_providers()
        if name is not None:
            config.append_provider(name)
            for key, value in place.options.items():
                config.set_provider_option(name, key, value)
        model = genai.Model(config)
    except RuntimeError as error:
        raise KronqError(
            "onnxruntime-genai cannot load the model", path=files.model, found=str(error)
        ) from error
    if provider == CUDA and model.device_type.upper() != "CUDA":
        raise KronqError("the model did not start on CUDA", found=model.device_type)
    return model, provider


def generate(
    model: og.Model,
    tokenizer: og.Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    context: int,
    sampling: Sampling,
    provider: str,
    stop: Sequence[str] = (),
    stream: Callable[[str], None] | None = None,
    prepare: Callable[[og.Generator], None] | None = None,
) -> list[Generation]:
    """Continues prompts side by side until the model ends each or it has ``max_tokens``.

    Args:
        model: From ``load_text_model``.
        tokenizer: From ``load_tokenizer``.
        prompts: Token ids. Several of them are padded on the right, as onnxruntime-genai does it.
        max_tokens: At most this many new tokens each.
        context: The longest prompt and new tokens together never exceed this.
        sampling: How the next token is picked.
        provider: For the result.
        stop: A text ends before any of these.
        stream: Called with each piece of the first text as it comes.
        prepare: Called with the generator before it reads its prompts: activates an adapter.

    Raises:
        KronqError: A prompt leaves no room, or onnxruntime-genai fails.
    """
    genai = import_genai()
    longest = max(map(len, prompts))
    if max_tokens < 1:
        raise ArgumentError("nothing to generate", found=max_tokens, expected="1 token or more")
    if longest >= context:
        raise ArgumentError(
            "the prompt fills the context", found=f"{longest} tokens", expected=f"under {context}"
        )
    if "" in stop:
        raise ArgumentError("an empty stop string would end every text at once")
    ends = set(tokenizer.eos_token_ids)
    texts = [
        Writing(tokenizer.create_stream(), ends, stop, None if row else stream)
        for row in range(len(prompts))
    ]
    try:
        params = genai.GeneratorParams(model)
        length = min(longest + max_tokens, context)
        params.set_search_options(
            max_length=length, batch_size=len(prompts), **sampling.search_options()
        )
        begin = time.perf_counter()
        first = begin
        generator = genai.Generator(model, params)
        if prepare is not None:
            prepare(generator)
        generator.append_tokens(padded(prompts, tokenizer.pad_token_id))
        while not generator.is_done() and not all(text.stopped for text in texts):
            generator.generate_next_token()
            for text, token in zip(texts, generator.get_next_tokens(), strict=True):
                if text.stopped is None:
                    text.add(int(token))
            if first == begin:
                first = time.perf_counter()
        end = time.perf_counter()
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
            provider=provider,
        )
        for text, ids in zip(texts, prompts, strict=True)
    ]


def padded(prompts: Sequence[Sequence[int]], pad: int) -> NDArray[np.int32]:
    """[prompts, tokens of the longest]."""
    rows = np.full((len(prompts), max(map(len, prompts))), pad, dtype=np.int32)
    for row, ids in zip(rows, prompts, strict=True):
        row[: len(ids)] = ids
    return rows
