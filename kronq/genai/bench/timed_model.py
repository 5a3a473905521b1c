"""Text model that is timed: the same prompt every time, and a fixed number of new tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, KronqError
from kronq.genai.bench.timing import Sample
from kronq.genai.text_model import TextModel, check_text_folder, import_genai, load_text_model
from kronq.onnx.genai_config import cache_window
from kronq.onnx.model_files import ModelFiles
from kronq.onnx.providers import ExecutionTarget

if TYPE_CHECKING:
    import onnxruntime_genai as og

ADAPTER_NAME = "timed"
Clock = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """Tokens that every variant reads and generates.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens to generate after it; the first one counts as prefill.
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
        room = files.model_count("context_length")
        if self.prompt_tokens + self.new_tokens > room:
            raise ArgumentError(
                "more tokens than the model's context",
                path=files.folder,
                found=self.prompt_tokens + self.new_tokens,
                expected=f"at most {room}",
            )


@dataclass(frozen=True)
class TimedModel:
    """Opened text model, with its adapter.

    Attributes:
        text_model: The model.
        load_seconds: Time that opening it took.
        adapters: Adapters loaded for its slots.
    """

    text_model: TextModel
    load_seconds: float
    adapters: og.Adapters | None = None

    def with_adapter(self, file: Path) -> TimedModel:
        """Returns the same open model with a prepared adapter (.onnx_adapter) active."""
        adapters = import_genai().Adapters(self.text_model.genai)
        load_adapter(adapters, file)
        return replace(self, adapters=adapters)

    def run(self, workload: Workload, clock: Clock = time.perf_counter) -> Sample:
        """Generates once, greedily, without stopping early.

        Raises:
            KronqError: onnxruntime-genai fails.
        """
        genai = import_genai()
        files = self.text_model.files
        # A windowed KV cache is never shorter than the window; the loop below ends before it.
        total = max(workload.prompt_tokens + workload.new_tokens, cache_window(files.genai))
        tokens = files.model_count("vocab_size")
        ids = prompt_of(workload, tokens)
        try:
            params = genai.GeneratorParams(self.text_model.genai)
            options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "batch_size": 1}
            params.set_search_options(max_length=total, min_length=total, **options)
            generator = genai.Generator(self.text_model.genai, params)
            if self.adapters is not None:
                generator.set_active_adapter(self.adapters, ADAPTER_NAME)
            times = [clock()]
            generator.append_tokens(ids.astype(np.int32))
            for _ in range(workload.new_tokens):
                generator.generate_next_token()
                times.append(clock())
        except RuntimeError as error:
            raise KronqError("generation failed", path=files.model, found=str(error)) from error
        prefill, *steps = (b - a for a, b in pairwise(times))
        return Sample(prefill, tuple(steps))


def prompt_of(workload: Workload, vocabulary: int) -> NDArray[np.int64]:
    """Returns the prompt's token ids, the same for everything that is timed."""
    return np.random.default_rng(0).integers(0, vocabulary, workload.prompt_tokens)


def open_timed_model(files: ModelFiles, target: ExecutionTarget) -> TimedModel:
    """Opens a model folder and measures how long that takes.

    Raises:
        UnsupportedError: The folder is not an onnxruntime-genai model folder.
        KronqError: The model cannot be loaded.
    """
    import_genai()
    check_text_folder(files)
    start = time.perf_counter()
    text_model = load_text_model(files, target)
    return TimedModel(text_model, time.perf_counter() - start)


def load_adapter(adapters: og.Adapters, file: Path) -> None:
    """Loads a prepared adapter.

    Raises:
        KronqError: onnxruntime-genai refuses the file.
    """
    try:
        adapters.load(str(file), ADAPTER_NAME)
    except RuntimeError as error:
        raise KronqError("not an adapter for slots", path=file, found=str(error)) from error


@dataclass(frozen=True)
class Swap:
    """Time of changing the adapter.

    Attributes:
        load: Seconds to load a prepared adapter.
        activate: Seconds to make it the active one.
    """

    load: float
    activate: float


def time_swaps(model: TimedModel, file: Path, times: int) -> list[Swap]:
    """Times changing the adapter; nothing is generated in between."""
    genai, opened = import_genai(), model.text_model.genai
    params = genai.GeneratorParams(opened)
    swaps = []
    for _ in range(times):
        adapters = genai.Adapters(opened)
        generator = genai.Generator(opened, params)
        start = time.perf_counter()
        load_adapter(adapters, file)
        loaded = time.perf_counter()
        generator.set_active_adapter(adapters, ADAPTER_NAME)
        swaps.append(Swap(loaded - start, time.perf_counter() - loaded))
    return swaps
