"""Timing by turns, in several processes that open their sessions in random order.

The place of a session in memory moves its time by 2 or 3 %, which one process cannot average out.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE, AGAIN = "base", "base again"
FIGURES = {"step": "decode", "prefill": "prefill"}

Text = Iterator[object]
"""The first step reads the prompt and makes a token, every later one makes a token."""

Sides = Mapping[str, Callable[[], Text]]
Times = dict[str, dict[str, float]]
"""Side → ``prefill`` and ``step``, seconds, medians of one process."""


@dataclass(frozen=True)
class Plan:
    """Numbers of texts, bursts and tokens that a process times.

    Attributes:
        rounds: New texts that count, after one that does not.
        bursts: How often each text goes on.
        steps: Tokens of a burst that count, after one that brings the caches back.
    """

    rounds: int = 3
    bursts: int = 2
    steps: int = 4


def take_turns(sides: Sides, plan: Plan, rng: random.Random) -> Times:
    """Every side in random order, again and again."""
    prefill: dict[str, list[float]] = {name: [] for name in sides}
    steps: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(plan.rounds + 1):
        texts = {name: start() for name, start in sides.items()}
        for name in shuffled(texts, rng):
            prefill[name].append(_seconds(texts[name]))
        for _ in range(plan.bursts if number else 1):
            for name in shuffled(texts, rng):
                next(texts[name])
                steps[name] += [_seconds(texts[name]) for _ in range(plan.steps)]
    return {
        name: {
            "prefill": statistics.median(prefill[name][1:]),
            "step": statistics.median(steps[name][plan.steps :]),
        }
        for name in sides
    }


def _seconds(text: Text) -> float:
    start = time.perf_counter()
    next(text)
    return time.perf_counter() - start


def shuffled(names: Iterable[str], rng: random.Random) -> list[str]:
    found = list(names)
    rng.shuffle(found)
    return found


def in_a_process(module: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Runs ``python -m module --child``: the request as JSON in, the last line printed out."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--child"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def kept(file: Path | None, new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Yields results as they come, after those of earlier runs that the file holds."""
    lines = file.read_text().splitlines() if file is not None and file.is_file() else []
    found = [json.loads(line) for line in lines]
    for one in new:
        found.append(one)
        if file is not None:
            with file.open("a") as stream:
                stream.write(json.dumps(one) + "\n")
    return found


def ratios(
    processes: Sequence[Times], name: str, figure: str, to: Sequence[str] = (BASE, AGAIN)
) -> list[float]:
    """Returns a side's time relative to the mean of the sides ``to``, for each turn."""
    found = []
    for one in processes:
        others = [one[other][figure] for other in to if other in one]
        if name in one and (name not in to or len(others) > 1):
            found.append(one[name][figure] / statistics.mean(others))
    return found


def told(found: Sequence[float]) -> str:
    return f"{statistics.median(found):.3f} ({min(found):.3f}–{max(found):.3f})"


def print_table(processes: Sequence[Times], figures: Mapping[str, str] = FIGURES) -> None:
    """A line a side: ms a token, and the ratios' medians with the lowest and highest process.

    Args:
        processes: What each found.
        figures: Which ratios, and what they are called.
    """
    heads = "".join(f" {head + ' ratio':>22}" for head in figures.values())
    print(f"  {'':<26} {'ms a token':>10}{heads}   processes")
    for name in dict.fromkeys(name for one in processes for name in one):
        step = statistics.median(one[name]["step"] for one in processes if name in one)
        found = [ratios(processes, name, figure) for figure in figures]
        line = "".join(f" {told(values):>22}" for values in found)
        print(f"  {name:<26} {1e3 * step:>10.2f}{line}   {len(found[0])}", flush=True)
