"""An adapter on a GPU: logits beside the CPU's, and the cost of every form.

    python -m benchmarks.gpu FOLDER [--provider cuda] [--json FILE] [--seconds 330]

FOLDER is what benchmarks.gpu_models wrote. For each base: the largest difference of logits from the
CPU's; nodes that are left to the CPU; and, all forms by turns, the time of a prompt and of a token
at several batch sizes, as ratios to the base; and the time of taking another adapter. A provider
that is not there is an error. What does not fit in --seconds is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_models import FILE, FORMS, PRECISIONS
from kronq.genai.bench.machine import describe_machine
from kronq.genai.bench.timed_model import ADAPTER_NAME, TimedModel, open_timed_model, time_swaps
from kronq.genai.text_model import import_genai
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import RECORD_NODES, ExecutionTarget, choose_target, count_nodes
from kronq.onnx.sessions import open_session

BASE, FILLED = "base", "slots, adapter"
CHECKED = 16
"""Tokens whose logits are compared."""
ROUNDS = 5


@dataclass(frozen=True)
class Work:
    """What is timed: batch sizes, tokens of a prompt, new tokens after the first one."""

    batches: tuple[int, ...] = (1, 8, 64)
    prompt: int = 128
    new: int = 16


class Deadline:
    """Tells whether there is time left, and keeps what there was none for."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, what: str) -> bool:
        if time.monotonic() < self.end:
            return True
        self.left_out.append(what)
        return False


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=330)
    parser.add_argument("--batches", type=int, nargs="+", default=list(Work.batches))
    parser.add_argument("--prompt", type=int, default=Work.prompt)
    parser.add_argument("--new", type=int, default=Work.new)
    args = parser.parse_args(arguments)
    target, deadline = choose_target(provider=args.provider), Deadline(args.seconds)
    work = Work(tuple(args.batches), args.prompt, args.new)
    machine = describe_machine()
    print(f"{target.provider}; {machine.cpu}, onnxruntime {machine.onnxruntime}")
    found: dict[str, Any] = {"provider": target.provider, "onnxruntime": machine.onnxruntime}
    for precision in PRECISIONS:
        if deadline.allows(precision):
            found[precision] = measure(args.folder / precision, target, work, deadline)
            show(precision, found[precision])
    found["left_out"] = deadline.left_out
    if deadline.left_out:
        print(f"no time for: {', '.join(deadline.left_out)}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def measure(
    folder: Path, target: ExecutionTarget, work: Work, deadline: Deadline
) -> dict[str, Any]:
    """Returns differences of logits, nodes on the CPU, times and swaps of one base's forms."""
    models = open_models(folder, target)
    found: dict[str, Any] = {"logits": {}, "times": {}, "nodes": {}}
    for name, model in open_models(folder, ExecutionTarget()).items():
        expected, own = logits(model), logits(models[name])
        apart = np.abs(own - expected).max() / np.abs(expected).max()
        found["logits"][name] = float(apart)
    for name in (BASE, *FORMS):
        if deadline.allows(f"{folder.name}, nodes of {name}"):
            session = open_session(folder / name / "model.onnx", target, config=RECORD_NODES)
            found["nodes"][name] = count_nodes(session)
    for batch in work.batches:
        if deadline.allows(f"{folder.name}, batch {batch}"):
            found["times"][batch] = take_turns(models, batch, work, deadline)
    if deadline.allows(f"{folder.name}, swaps"):
        swaps = time_swaps(models["slots"], folder / FILE, 20)
        for part in ("load", "activate"):
            found[part] = statistics.median(getattr(swap, part) for swap in swaps)
    return found


def open_models(folder: Path, target: ExecutionTarget) -> dict[str, TimedModel]:
    """Opens the base and every form; slots empty, and with an adapter."""
    models = {name: open_timed_model(find_model(folder / name), target) for name in (BASE, *FORMS)}
    models[FILLED] = models["slots"].with_adapter(folder / FILE)
    return models


def logits(model: TimedModel) -> Any:
    """Returns the logits of the last token of a prompt."""
    generator = _generator(model, 1, CHECKED + 1)
    generator.append_tokens(_tokens(model, 1, CHECKED))
    return np.asarray(generator.get_logits()).astype(np.float64)


def take_turns(
    models: dict[str, TimedModel], batch: int, work: Work, deadline: Deadline
) -> dict[str, dict[str, float]]:
    """Times every model in random order, again and again; the first round does not count.

    Returns:
        Model → ``prefill`` and ``step``, seconds: medians.
    """
    rng = random.Random(0)  # noqa: S311
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for number in range(ROUNDS + 1):
        if number > 1 and not deadline.allows(f"round {number} of batch {batch}"):
            break
        for name in rng.sample(list(models), len(models)):
            prefill, *steps = generate(models[name], batch, work)
            times[name].append((prefill, statistics.median(steps)))
    return {
        name: {
            "prefill": statistics.median(prefill for prefill, _ in found[1:]),
            "step": statistics.median(step for _, step in found[1:]),
        }
        for name, found in times.items()
    }


def generate(model: TimedModel, batch: int, work: Work) -> Iterator[float]:
    """Yields the seconds of a prompt with its first token, and of each token after it."""
    generator = _generator(model, batch, work.prompt + work.new + 1)
    tokens = _tokens(model, batch, work.prompt)
    times = [time.perf_counter()]
    generator.append_tokens(tokens)
    for _ in range(work.new + 1):
        generator.generate_next_token()
        generator.get_next_tokens()  # waits for the device
        times.append(time.perf_counter())
    return (after - before for before, after in pairwise(times))


def _generator(model: TimedModel, batch: int, length: int) -> Any:
    genai = import_genai()
    params = genai.GeneratorParams(model.text_model.genai)
    params.set_search_options(
        do_sample=False, num_beams=1, batch_size=batch, max_length=length, min_length=length
    )
    generator = genai.Generator(model.text_model.genai, params)
    if model.adapters is not None:
        generator.set_active_adapter(model.adapters, ADAPTER_NAME)
    return generator


def _tokens(model: TimedModel, batch: int, length: int) -> Any:
    vocabulary = model.text_model.files.model_count("vocab_size")
    return np.random.default_rng(0).integers(0, vocabulary, (batch, length)).astype(np.int32)


def show(precision: str, found: dict[str, Any]) -> None:
    """Prints a table: differences of logits, and per batch size the times as ratios to the base."""
    batches = list(found["times"])
    columns = [f"{part} {batch}" for batch in batches for part in ("prefill", "step")]
    print(f"\n{precision}: form | logits beside the CPU's | on the CPU | {' | '.join(columns)}")
    for name, apart in found["logits"].items():
        cells = []
        for batch in batches:
            own, base = found["times"][batch][name], found["times"][batch][BASE]
            cells += [f"{1e3 * own[p]:.2f} ms, {own[p] / base[p]:.3f}" for p in ("prefill", "step")]
        nodes = found["nodes"].get(name.partition(",")[0], {})
        left = f"{nodes.get('CPUExecutionProvider', 0)} of {sum(nodes.values())}"
        print(f"{name} | {apart:.1e} | {left} | {' | '.join(cells)}")
    if "load" in found:
        load, activate = 1e3 * found["load"], 1e3 * found["activate"]
        print(f"another adapter: {load:.2f} ms to load, {activate:.3f} ms to activate")


if __name__ == "__main__":
    main()
