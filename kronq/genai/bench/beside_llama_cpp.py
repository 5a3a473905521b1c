"""The model in llama.cpp among the variants that are timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kronq.errors import ArgumentError, StrPath
from kronq.genai.bench.llama_cpp import LlamaCpp, describe_llama_cpp
from kronq.genai.bench.timed_model import Workload
from kronq.genai.bench.timing import Round, Sample, Spread, time_ratio, tokens_per_second
from kronq.io.extras import require
from kronq.io.gguf_file import is_gguf
from kronq.io.input_path import find_input
from kronq.io.unfinished import temporary_folder
from kronq.readers.load import load
from kronq.writers.convert import convert

WITH, WITHOUT = "llama.cpp with", "llama.cpp without"


@dataclass(frozen=True)
class Speeds:
    """Speeds of reading a prompt, to the first new token, and of making the tokens after it."""

    prefill_tokens_per_second: Spread
    decode_tokens_per_second: Spread


@dataclass(frozen=True)
class LlamaCppReport:
    """llama.cpp on the same GGUF file, beside the model that is timed.

    Attributes:
        gguf: The file.
        program: The wheel's version, and the instructions that it was compiled for.
        with_adapter: Speeds with the adapter as a LoRA, as ``kronq convert --to gguf`` writes it.
        without: Speeds of the file alone.
        decode_ratio: llama.cpp's time of a token ÷ this model's, both with the adapter, paired
            within each round; above 1 llama.cpp is slower.
        prefill_ratio: The same of the prompt.
    """

    gguf: str
    program: str
    with_adapter: Speeds
    without: Speeds
    decode_ratio: Spread
    prefill_ratio: Spread


Runs = Mapping[str, Callable[[], Sample]]


@contextmanager
def open_llama_cpp(
    gguf: StrPath,
    adapter: StrPath,
    basis: StrPath | None,
    workload: Workload,
    vocabulary: int,
    threads: int | None,
) -> Iterator[Runs]:
    """Opens a GGUF file in llama.cpp twice, with an adapter and without, for as long as it is used.

    Args:
        gguf: The model.
        adapter: Anything that ``kronq.load`` reads.
        basis: Where LoRA-XS's R alone finds its frozen bases, as ``kronq.load`` takes it.
        workload: What each run reads and generates.
        vocabulary: Number of tokens that prompts are drawn from.
        threads: Threads; None for llama.cpp's own choice.

    Raises:
        MissingDependencyError: xllamacpp is not installed.
        MismatchError: The adapter's layers are not those of the file.
        KronqError: llama.cpp cannot load a file.
    """
    require("llama-cpp", "llama.cpp")
    file = find_input(gguf)
    if not is_gguf(file):
        raise ArgumentError("llama.cpp runs GGUF files", path=gguf, expected="a .gguf file")
    tokens = workload.prompt_tokens + workload.new_tokens
    with temporary_folder() as folder:
        lora = convert(
            load(adapter, basis=basis), Path(folder, "lora.gguf"), to="gguf", base_model=str(file)
        )
        opened = {
            WITH: LlamaCpp(file, lora, tokens=tokens, threads=threads),
            WITHOUT: LlamaCpp(file, tokens=tokens, threads=threads),
        }
        yield {name: partial(one.run, workload, vocabulary) for name, one in opened.items()}


def report_llama_cpp(
    gguf: StrPath, rounds: Sequence[Round], beside: str, workload: Workload
) -> LlamaCppReport:
    """Returns llama.cpp's figures, and the ratios to the variant ``beside``."""

    def speeds(name: str) -> Speeds:
        return Speeds(
            tokens_per_second(rounds, name, _prefill, workload.prompt_tokens),
            tokens_per_second(rounds, name, _step),
        )

    return LlamaCppReport(
        gguf=str(gguf),
        program=describe_llama_cpp(),
        with_adapter=speeds(WITH),
        without=speeds(WITHOUT),
        decode_ratio=time_ratio(rounds, WITH, beside, _step),
        prefill_ratio=time_ratio(rounds, WITH, beside, _prefill),
    )


def _prefill(sample: Sample) -> float:
    return sample.prefill


def _step(sample: Sample) -> float:
    return sample.step
