"""A text model that is timed: the same tokens in, as many out, whatever it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kronq.errors import ArgumentError, KronqError
from kronq.genai import generation
from kronq.genai.bench.timing import Sample
from kronq.onnx.model_files import ModelFiles
from kronq.onnx.providers import Place

if TYPE_CHECKING:
    import onnxruntime_genai as og

NAME = "timed"
Clock = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What is asked of every side.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens to generate behind it, the first of them with the prompt.
    """

    prompt_tokens: int
    new_tokens: int

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.new_tokens < 2:
            raise ArgumentError(
                "too few tokens to time",
                found=f"{self.prompt_tokens} and {self.new_tokens} new",
                expected="1 or more, and 2 or more new",
            )

    def check(self, files: ModelFiles) -> None:
        """Raises KronqError where the model cannot hold so many tokens."""
        room = files.genai["model"]["context_length"]
        if self.prompt_tokens + self.new_tokens > room:
            raise ArgumentError(
                "more tokens than the model's context",
                path=files.folder,
                found=self.prompt_tokens + self.new_tokens,
                expected=f"at most {room}",
            )


@dataclass(frozen=True)
class TextModel:
    """A model in memory, and what it took to open it.

    Attributes:
        model: onnxruntime-genai's.
        provider: Where it runs.
        files: Where it lies.
        load_seconds: To open it.
        adapters: What is loaded beside it, where the model has slots.
    """

    model: og.Model
    provider: str
    files: ModelFiles
    load_seconds: float
    adapters: og.Adapters | None = field(default=None)

    def with_adapter(self, file: Path) -> TextModel:
        """The same model, answering with a prepared adapter (.onnx_adapter)."""
        adapters = generation.import_genai().Adapters(self.model)
        load_adapter(adapters, file)
        return TextModel(self.model, self.provider, self.files, self.load_seconds, adapters)

    def run(self, work: Work, clock: Clock = time.perf_counter) -> Sample:
        """Generates once, greedily, and never stops early.

        Raises:
            KronqError: onnxruntime-genai fails.
        """
        genai = generation.import_genai()
        total = work.prompt_tokens + work.new_tokens
        config = self.files.genai["model"]
        ids = np.random.default_rng(0).integers(0, config["vocab_size"], work.prompt_tokens)
        try:
            params = genai.GeneratorParams(self.model)
            options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "batch_size": 1}
            params.set_search_options(max_length=total, min_length=total, **options)
            generator = genai.Generator(self.model, params)
            if self.adapters is not None:
                generator.set_active_adapter(self.adapters, NAME)
            times = [clock()]
            generator.append_tokens(ids.astype(np.int32))
            for _ in range(work.new_tokens):
                generator.generate_next_token()
                times.append(clock())
        except RuntimeError as error:
            raise KronqError(
                "generation failed", path=self.files.model, found=str(error)
            ) from error
        prefill, *steps = (b - a for a, b in pairwise(times))
        return Sample(prefill, tuple(steps))


def open_text_model(files: ModelFiles, place: Place, threads: int | None) -> TextModel:
    """Opens a model folder, and says how long that took.

    Raises:
        UnsupportedError: The folder is not an onnxruntime-genai model folder.
        KronqError: The model cannot be loaded.
    """
    generation.import_genai()
    generation.check_text_folder(files)
    start = time.perf_counter()
    model, provider = generation.load_text_model(files, place, threads)
    return TextModel(model, provider, files, time.perf_counter() - start)


def load_adapter(adapters: og.Adapters, file: Path) -> None:
    """Raises KronqError where onnxruntime-genai refuses the file."""
    try:
        adapters.load(str(file), NAME)
    except RuntimeError as error:
        raise KronqError("not an adapter for slots", path=file, found=str(error)) from error


@dataclass(frozen=True)
class Swap:
    """Seconds to load a prepared adapter, and to make it the active one."""

    load: float
    activate: float


def time_swaps(model: TextModel, file: Path, times: int) -> list[Swap]:
    """Changes the adapter again and again; nothing is generated in between."""
    genai = generation.import_genai()
    params = genai.GeneratorParams(model.model)
    swaps = []
    for _ in range(times):
        adapters = genai.Adapters(model.model)
        generator = genai.Generator(model.model, params)
        start = time.perf_counter()
        load_adapter(adapters, file)
        loaded = time.perf_counter()
        generator.set_active_adapter(adapters, NAME)
        swaps.append(Swap(loaded - start, time.perf_counter() - loaded))
    return swaps
