"""Run-time cost of an adapter: one model with it and without it, timed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

from kronq.errors import ArgumentError, StrPath
from kronq.genai.adapter_cache import AdapterFile, prepare_adapter
from kronq.genai.bench.bench_report import BenchReport, VariantReport
from kronq.genai.bench.beside_llama_cpp import Runs, open_llama_cpp, report_llama_cpp
from kronq.genai.bench.fresh_process import measure_in_fresh_process
from kronq.genai.bench.machine import describe_machine
from kronq.genai.bench.timed_model import (
    Swap,
    TimedModel,
    Workload,
    open_timed_model,
    time_swaps,
)
from kronq.genai.bench.timing import Round, Spread, run_in_turns, time_ratio, tokens_per_second
from kronq.io.progress import Progress
from kronq.onnx.base_prints import read_prints
from kronq.onnx.model_files import ModelFiles, find_model
from kronq.onnx.providers import (
    RECORD_NODES,
    ExecutionOptions,
    ExecutionTarget,
    choose_target,
    count_nodes,
)
from kronq.onnx.sessions import open_session
from kronq.onnx.slots.slot_spec import SlotSpec

WITH, WITHOUT = "with", "without"
FRESH_PROCESSES = 3
SWAPS = 30

FreshFigures = Sequence[Mapping[str, float | None]]


@dataclass(frozen=True)
class Variant:
    """One of the two models that are compared.

    Attributes:
        files: The model.
        adapter: The adapter for its slots, as the user named it; None for none.
        prepared: The same adapter as ONNX Runtime loads it.
    """

    files: ModelFiles
    adapter: str | None = None
    prepared: AdapterFile | None = None

    @property
    def file(self) -> Path | None:
        return None if self.prepared is None else self.prepared.file


Variants = Mapping[str, Variant]


@dataclass(frozen=True)
class Timings:
    """Times of all variants in one process.

    Attributes:
        rounds: One sample for each variant in every round.
        swaps: Times of changing the adapter; empty without slots.
        provider: The execution provider that ran the model with the adapter.
    """

    rounds: Sequence[Round]
    swaps: Sequence[Swap]
    provider: str


def bench(
    folder: StrPath,
    *,
    base: StrPath | None = None,
    adapter: StrPath | None = None,
    basis: StrPath | None = None,
    other_base: bool = False,
    llama_cpp: StrPath | None = None,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    rounds: int = 7,
    progress: Progress | None = None,
    **execution: Unpack[ExecutionOptions],
) -> BenchReport:
    """Measures the run-time cost of an adapter.

    Args:
        folder: A text model's folder, as ``kronq export`` writes it.
        base: The model without the adapter. A model with slots is its own base; where one is given
            nevertheless, the cost of empty slots is included.
        adapter: For a model with slots: anything that ``kronq.load`` reads, or an
            ``.onnx_adapter``.
        basis: Where LoRA-XS's R alone finds its frozen bases, as ``kronq.load`` takes it.
        other_base: Takes an adapter that was calibrated or tested with another base, too.
        llama_cpp: A GGUF file that llama.cpp runs in the same turns, with the same adapter as a
            LoRA and without it.
        prompt_tokens: Tokens of the prompt; which ones does not matter.
        new_tokens: Tokens to generate after it.
        rounds: Samples of each variant.
        progress: Called with (rounds done, rounds in all).
        execution: ``device``, ``provider``, ``provider_options`` and ``threads``, as ``Session``
            takes them.

    Raises:
        MismatchError: The adapter does not fit the slots, or is for another base.
        UnsupportedError: The folder holds no text model.
        MissingDependencyError: llama.cpp is asked for, and xllamacpp is not installed.
        KronqError: There is nothing to compare with, or the model cannot be run.
    """
    if rounds < 1:
        raise ArgumentError("nothing to measure", found=f"{rounds} rounds", expected="1 or more")
    target = choose_target(**execution)
    workload = Workload(prompt_tokens, new_tokens)
    variants = _find_variants(folder, base, adapter, basis, other_base=other_base)
    others: AbstractContextManager[Runs] = nullcontext({})
    if llama_cpp is not None:
        if adapter is None:
            raise ArgumentError("which adapter is llama.cpp to run?", hint="give {adapter}")
        words = variants[WITH].files.model_count("vocab_size")
        others = open_llama_cpp(llama_cpp, adapter, basis, workload, words, target.threads)
    with others as runs:
        timings = _time_variants(variants, runs, target, workload, rounds, progress)
    if timings.provider != target.provider:
        target = ExecutionTarget(timings.provider, threads=target.threads)
    fresh = _measure_fresh(variants, target, workload)
    with_adapter, without = (
        _report_variant(name, variants[name], timings.rounds, fresh[name], target, workload)
        for name in (WITH, WITHOUT)
    )
    swaps = timings.swaps
    return BenchReport(
        decode_ratio=time_ratio(timings.rounds, WITH, WITHOUT, lambda sample: sample.step),
        prefill_ratio=time_ratio(timings.rounds, WITH, WITHOUT, lambda sample: sample.prefill),
        load_ms=with_adapter.load_ms,
        swap_ms=Spread.of(1e3 * (s.load + s.activate) for s in swaps) if swaps else None,
        activate_ms=Spread.of(1e3 * s.activate for s in swaps) if swaps else None,
        peak_mb=with_adapter.peak_mb,
        provider=timings.provider,
        threads=target.threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds,
        with_adapter=with_adapter,
        without=without,
        machine=describe_machine(),
        llama_cpp=None
        if llama_cpp is None
        else report_llama_cpp(llama_cpp, timings.rounds, WITH, workload),
    )


def _find_variants(
    folder: StrPath,
    base: StrPath | None,
    adapter: StrPath | None,
    basis: StrPath | None,
    *,
    other_base: bool,
) -> Variants:
    if base is None and adapter is None:
        raise ArgumentError(
            "what is the model without the adapter?",
            path=folder,
            expected="a base, or an adapter for the model's slots",
            hint="give {base} for the forms branch and merged, {adapter} for slots",
        )
    exported = find_model(folder)
    bare = exported if base is None else find_model(base)
    if adapter is None:
        return {WITH: Variant(exported), WITHOUT: Variant(bare)}
    prints = None if other_base else read_prints(exported.folder)
    slots = SlotSpec.read(exported.folder)
    prepared = prepare_adapter(adapter, slots, basis=basis, prints=prints)
    return {WITH: Variant(exported, str(adapter), prepared), WITHOUT: Variant(bare)}


def _time_variants(
    variants: Variants,
    others: Runs,
    target: ExecutionTarget,
    workload: Workload,
    rounds: int,
    progress: Progress | None,
) -> Timings:
    """Times every round, of the others as well, and every swap; closes the models.

    A model that both variants share is opened once: two copies would not share a processor's cache.
    """
    opened: dict[Path, TimedModel] = {}
    models: dict[str, TimedModel] = {}
    for name, variant in variants.items():
        path = variant.files.model
        workload.check(variant.files)
        if path not in opened:
            opened[path] = open_timed_model(variant.files, target)
        plain = opened[path]
        models[name] = plain if variant.file is None else plain.with_adapter(variant.file)
    adapted = variants[WITH]
    plain = opened[adapted.files.model]
    swaps = [] if adapted.file is None else time_swaps(plain, adapted.file, SWAPS)
    runs = {name: partial(model.run, workload) for name, model in models.items()} | dict(others)
    return Timings(run_in_turns(runs, rounds, progress), swaps, models[WITH].text_model.provider)


def _measure_fresh(
    variants: Variants, target: ExecutionTarget, workload: Workload
) -> Mapping[str, FreshFigures]:
    """Measures each variant alone in fresh processes, in turns as well."""
    figures: dict[str, list[Mapping[str, float | None]]] = {name: [] for name in variants}
    for _ in range(FRESH_PROCESSES):
        for name, variant in variants.items():
            request = {
                "model": str(variant.files.model),
                "adapter": None if variant.file is None else str(variant.file),
                "provider": target.provider,
                "options": dict(target.options),
                "threads": target.threads,
                "prompt_tokens": workload.prompt_tokens,
                "new_tokens": workload.new_tokens,
            }
            figures[name].append(measure_in_fresh_process(request))
    return figures


def _report_variant(
    name: str,
    variant: Variant,
    rounds: Sequence[Round],
    fresh: FreshFigures,
    target: ExecutionTarget,
    workload: Workload,
) -> VariantReport:
    peaks = [peak for one in fresh if (peak := one["peak_mb"]) is not None]
    # onnxruntime-genai does not report its nodes; onnxruntime assigns them alike.
    session = open_session(variant.files.model, target, config=RECORD_NODES)
    return VariantReport(
        model=str(variant.files.model),
        adapter=variant.adapter,
        prefill_tokens_per_second=tokens_per_second(
            rounds, name, lambda sample: sample.prefill, workload.prompt_tokens
        ),
        decode_tokens_per_second=tokens_per_second(rounds, name, lambda sample: sample.step),
        first_token_ms=Spread.of(1e3 * samples[name].prefill for samples in rounds),
        load_ms=Spread.of(one["load_ms"] or 0.0 for one in fresh),
        peak_mb=Spread.of(peaks) if peaks else None,
        nodes=count_nodes(session),
    )
