"""Figures that a benchmark returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kronq.genai.bench.beside_llama_cpp import LlamaCppReport
from kronq.genai.bench.machine import Machine
from kronq.genai.bench.timing import Spread


@dataclass(frozen=True)
class VariantReport:
    """Figures of one variant: the model with the adapter, or without it.

    Attributes:
        model: The .onnx file.
        adapter: The adapter that was active in the model's slots; None where it is in the graph,
            or there is none.
        prefill_tokens_per_second: Speed of reading the prompt, the first new token included.
        decode_tokens_per_second: Speed after the first new token, from each round's median.
        first_token_ms: Time from the prompt to the first new token.
        load_ms: Time to open the model, in fresh processes.
        peak_mb: Peak memory of such a process in 10⁶ bytes, Python included; None where the system
            does not report it.
        nodes: Nodes of the optimized graph by the provider that runs them.
    """

    model: str
    adapter: str | None
    prefill_tokens_per_second: Spread
    decode_tokens_per_second: Spread
    first_token_ms: Spread
    load_ms: Spread
    peak_mb: Spread | None
    nodes: Mapping[str, int]


@dataclass(frozen=True)
class BenchReport:
    """Run-time cost of an adapter.

    Attributes:
        decode_ratio: Time of a token with the adapter ÷ without it, paired within each round.
        prefill_ratio: Time to read the prompt with the adapter ÷ without it, likewise.
        load_ms: Time to open the model with the adapter.
        swap_ms: Time to load a prepared adapter and make it the active one; None where the adapter
            is in the graph, and changing it means loading another model.
        activate_ms: Part of ``swap_ms`` that makes a loaded adapter the active one.
        peak_mb: Peak memory with the adapter, in 10⁶ bytes.
        provider: The execution provider that generated the text.
        threads: Threads within one operator; None where ONNX Runtime chose.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens generated.
        rounds: Rounds that count; one more comes before them.
        with_adapter: Figures of the exported model.
        without: Figures of its base.
        machine: The machine that was measured.
        llama_cpp: llama.cpp in the same turns, if it was asked for.
    """

    decode_ratio: Spread
    prefill_ratio: Spread
    load_ms: Spread
    swap_ms: Spread | None
    activate_ms: Spread | None
    peak_mb: Spread | None
    provider: str
    threads: int | None
    prompt_tokens: int
    new_tokens: int
    rounds: int
    with_adapter: VariantReport
    without: VariantReport
    machine: Machine
    llama_cpp: LlamaCppReport | None = None
