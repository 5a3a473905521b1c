"""What an adapter costs: the same model with it and without it, in one run, taking turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kronq.errors import ArgumentError, StrPath
from kronq.genai.bench.child import in_a_child
from kronq.genai.bench.machine import Machine, this_machine
from kronq.genai.bench.timed_model import Swap, TextModel, Work, open_text_model, time_swaps
from kronq.genai.bench.timing import Round, Sample, Spread, per_second, ratio, take_turns
from kronq.genai.prepared import prepare
from kronq.genai.session import Session
from kronq.onnx.model_files import ModelFiles, find_model
from kronq.onnx.providers import Place, choose
from kronq.onnx.slots.spec import Slots

WITH, WITHOUT = "with", "without"
LOADS = 3
SWAPS = 30

Progress = Callable[[int, int], None]
Sides = Mapping[str, tuple[ModelFiles, Path | None]]
Fresh = Mapping[str, Sequence[Mapping[str, float | None]]]


@dataclass(frozen=True)
class Side:
    """One model, measured.

    Attributes:
        model: The .onnx file.
        adapter: What was active beside it; None where it is in the graph, or there is none.
        prefill_tokens_per_second: Reading the prompt, the first new token included.
        decode_tokens_per_second: After it; of each round's median token.
        first_token_ms: From the prompt to the first new token.
        load_ms: To open the model, in processes of its own.
        peak_mb: The most memory such a process took, in 10⁶ bytes, Python included; None where
            the system does not tell.
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
    """A model with its adapter and without it.

    Attributes:
        decode_ratio: Time of a token with the adapter ÷ without it, paired within each round.
        prefill_ratio: The same of reading the prompt.
        load_ms: With the adapter.
        swap_ms: To load a prepared adapter and make it the active one; None where the adapter is
            in the graph, and changing it is loading another model.
        activate_ms: The part of it that makes a loaded adapter the active one.
        peak_mb: With the adapter.
        provider: The execution provider that the text ran on.
        threads: Threads within one operator; None where ONNX Runtime chose.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens generated.
        rounds: How often, after one round that does not count.
        with_adapter: The model as it is shipped.
        without: Its base.
        machine: What ran it.
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
    with_adapter: Side
    without: Side
    machine: Machine


def bench(
    folder: StrPath,
    *,
    base: StrPath | None = None,
    adapter: StrPath | None = None,
    device: str = "auto",
    provider: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    rounds: int = 7,
    progress: Progress | None = None,
) -> BenchReport:
    """Measures what an adapter costs.

    Args:
        folder: A text model's folder, as ``kronq export`` writes it.
        base: The model without the adapter. A model with slots is its own; given one it is timed
            against that, and what empty slots cost counts as well.
        adapter: For a model with slots: anything that ``kronq.load`` reads, or an
            ``.onnx_adapter``.
        device: As for ``Session``; so are ``provider``, ``provider_options`` and ``threads``.
        provider: Instead of a device.
        provider_options: The provider's own.
        threads: Threads within one operator.
        prompt_tokens: Tokens of the prompt; which ones does not matter.
        new_tokens: Tokens to generate behind it.
        rounds: How often each side is timed.
        progress: Is told rounds done and all rounds.

    Raises:
        UnsupportedError: Not a text model's folder.
        KronqError: Nothing to compare with, or the model cannot be run.
    """
    if base is None and adapter is None:
        raise ArgumentError(
            "what is the model without the adapter?",
            path=folder,
            expected="a base, or an adapter for the model's slots",
            hint="give {base} for the forms branch and merged, {adapter} for slots",
        )
    if rounds < 1:
        raise ArgumentError("nothing to measure", found=f"{rounds} rounds", expected="1 or more")
    place = choose(device, provider, provider_options)
    work = Work(prompt_tokens, new_tokens)
    shipped = find_model(folder)
    bare = shipped if base is None else find_model(base)
    ready = None if adapter is None else prepare(adapter, Slots.read(shipped.folder))
    file = None if ready is None else ready.file
    sides = {WITH: (shipped, file), WITHOUT: (bare, None)}
    timed, swaps, ran_on = _time(sides, place, threads, work, rounds, progress)
    if ran_on != place.provider:
        place = Place(ran_on)
    fresh = _fresh(sides, place, threads, work)
    told = {
        name: Side(
            model=str(files.model),
            adapter=None if beside is None else str(adapter),
            prefill_tokens_per_second=per_second(timed, name, _prefill, prompt_tokens),
            decode_tokens_per_second=per_second(timed, name, _step),
            first_token_ms=Spread.of(1e3 * found[name].prefill for found in timed),
            load_ms=Spread.of(one["load_ms"] or 0.0 for one in fresh[name]),
            peak_mb=_spread(fresh[name], "peak_mb"),
            nodes=_nodes(files, place, threads),
        )
        for name, (files, beside) in sides.items()
    }
    return BenchReport(
        decode_ratio=ratio(timed, WITH, WITHOUT, _step),
        prefill_ratio=ratio(timed, WITH, WITHOUT, _prefill),
        load_ms=told[WITH].load_ms,
        swap_ms=Spread.of(1e3 * (s.load + s.activate) for s in swaps) if swaps else None,
        activate_ms=Spread.of(1e3 * s.activate for s in swaps) if swaps else None,
        peak_mb=told[WITH].peak_mb,
        provider=ran_on,
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds,
        with_adapter=told[WITH],
        without=told[WITHOUT],
        machine=this_machine(),
    )


def _step(sample: Sample) -> float:
    return sample.step


def _prefill(sample: Sample) -> float:
    return sample.prefill


def _time(
    sides: Sides, place: Place, threads: int | None, work: Work, rounds: int, tell: Progress | None
) -> tuple[list[Round], list[Swap], str]:
    """Every round, every swap, and the provider; the models are gone when it returns.

    A model that both sides share is opened once: two copies would not share a cache.
    """
    opened: dict[Path, TextModel] = {}
    models: dict[str, TextModel] = {}
    for name, (files, adapter) in sides.items():
        work.check(files)
        if files.model not in opened:
            opened[files.model] = open_text_model(files, place, threads)
        plain = opened[files.model]
        models[name] = plain if adapter is None else plain.with_adapter(adapter)
    shipped, adapter = sides[WITH]
    swaps = [] if adapter is None else time_swaps(opened[shipped.model], adapter, SWAPS)
    runs = {name: partial(model.run, work) for name, model in models.items()}
    return take_turns(runs, rounds, tell), swaps, models[WITH].provider


def _fresh(sides: Sides, place: Place, threads: int | None, work: Work) -> Fresh:
    """Each side alone in processes of its own, taking turns as well."""
    found: dict[str, list[Mapping[str, float | None]]] = {name: [] for name in sides}
    for _ in range(LOADS):
        for name, (files, adapter) in sides.items():
            request = {
                "model": str(files.model),
                "adapter": None if adapter is None else str(adapter),
                "provider": place.provider,
                "options": dict(place.options),
                "threads": threads,
                "prompt_tokens": work.prompt_tokens,
                "new_tokens": work.new_tokens,
            }
            found[name].append(in_a_child(request))
    return found


def _spread(found: Sequence[Mapping[str, float | None]], key: str) -> Spread | None:
    figures = [figure for one in found if (figure := one[key]) is not None]
    return Spread.of(figures) if figures else None


def _nodes(files: ModelFiles, place: Place, threads: int | None) -> dict[str, int]:
    """As onnxruntime assigns them, which onnxruntime-genai does not tell."""
    session = Session(
        files.model, provider=place.provider, provider_options=place.options, threads=threads
    )
    return dict(session.report.nodes)
