"""llama.cpp as what is compared with: the same GGUF file and adapter, by the wheel xllamacpp."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kronq.errors import KronqError
from kronq.genai.bench.timed_model import Clock, Workload, prompt_of
from kronq.genai.bench.timing import Sample
from kronq.io.extras import require
from kronq.model.matrix import F32

_GREEDY = {"temperature": 0.0, "ignore_eos": True}
_ALONE = {"samplers": ["top_k"], "top_k": 1}
"""The one sampler that greedy text needs, 2 % faster than all; probabilities need the others."""


class LlamaCpp:
    """GGUF model opened in llama.cpp, with its defaults, and perhaps a LoRA.

    Args:
        gguf: The model.
        adapter: The adapter as a GGUF file (``kronq convert --to gguf``).
        tokens: Room for tokens, of the prompt and new ones.
        threads: Threads; None for llama.cpp's own choice.

    Raises:
        MissingDependencyError: xllamacpp is not installed.
        KronqError: llama.cpp cannot load a file.
    """

    def __init__(
        self, gguf: Path, adapter: Path | None = None, *, tokens: int, threads: int | None = None
    ) -> None:
        require("llama-cpp", "llama.cpp")
        import xllamacpp

        self.gguf = gguf
        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_ctx, params.n_parallel, params.verbosity = tokens + 8, 1, -1
        if threads is not None:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise KronqError("llama.cpp cannot load it", path=gguf, found=str(error)) from error

    def run(self, workload: Workload, vocabulary: int, clock: Clock = time.perf_counter) -> Sample:
        """Generates once, greedily, without stopping early.

        The time is divided as llama.cpp divides its own; all tokens get the same share, as it does
        not tell each one's.

        Args:
            workload: Tokens to read and to generate.
            vocabulary: Number of tokens that prompts are drawn from.
            clock: Returns seconds.
        """
        prompt = prompt_of(workload, vocabulary).tolist()
        start = clock()
        request = {**_ALONE, "n_predict": workload.new_tokens, "cache_prompt": False}
        answer = self._ask(prompt, request)
        seconds, told = clock() - start, answer["timings"]
        steps = workload.new_tokens - 1
        if told["predicted_n"] != workload.new_tokens:
            raise KronqError("llama.cpp stopped early", path=self.gguf, found=told["predicted_n"])
        share = told["predicted_ms"] / (told["prompt_ms"] + told["predicted_ms"])
        return Sample(seconds * (1 - share), (seconds * share / steps,) * steps)

    def log_probabilities(self, tokens: Sequence[int], vocabulary: int) -> F32:
        """Predicts the next token after every token.

        Args:
            tokens: The text.
            vocabulary: Number of tokens.

        Returns:
            Log-probabilities [tokens, vocabulary]; NaN where llama.cpp tells none, because its
            likeliest token is a part of a character.
        """
        found = np.full((len(tokens), vocabulary), np.nan, np.float32)
        request = {"n_predict": 1, "n_probs": vocabulary, "cache_prompt": True}
        for row in range(len(tokens)):
            answer = self._ask([*tokens[: row + 1]], request)
            logprobs = answer["choices"][0]["logprobs"]
            for each in logprobs["content"][0]["top_logprobs"] if logprobs else ():
                found[row, each["id"]] = each["logprob"]
        return found

    def _ask(self, prompt: list[int], request: dict[str, Any]) -> Any:
        try:
            return self._server.handle_completions({"prompt": prompt, **_GREEDY, **request})
        except RuntimeError as error:
            raise KronqError("llama.cpp failed", path=self.gguf, found=str(error)) from error


def describe_llama_cpp() -> str:
    """Returns the wheel's version, and the instructions that it was compiled for."""
    import xllamacpp

    info = str(xllamacpp.get_system_info()).partition(":")[2]
    made_for = [part.partition("=")[0].strip() for part in info.split("|") if part.strip()]
    return f"xllamacpp {xllamacpp.__version__}, {' '.join(made_for)}"
