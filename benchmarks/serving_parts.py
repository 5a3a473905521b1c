"""What a process of ``benchmarks.serving`` measures."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serving_http import http
from benchmarks.serving_mix import (
    ROWS,
    Spent,
    open_engine,
    random_mix,
    random_tokens,
    run_engines,
)
from kronq import Engine

PROMPT = 32
"""Tokens of the prompts whose first token is timed."""
FIRST_TOKENS = 15


def throughput(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answers one mix with every engine; returns the tokens and the seconds of each."""
    folder, rng = Path(request["folder"]), random.Random(request["seed"])  # noqa: S311
    counts = [0, *request["counts"]]
    rng.shuffle(counts)
    engines = {count: open_engine(folder, count or None) for count in counts}
    mix = random_mix(request["requests"], rng)
    run_engines(engines, mix[:2], rng)  # does not count
    sides = {str(count): spent for count, spent in run_engines(engines, mix, rng).items()}
    return {
        "new_tokens": sum(each.length for each in mix),
        "prompt_tokens": sum(len(each.prompt) for each in mix),
        "sides": {name: asdict(spent) for name, spent in sides.items()},
    }


def first_token(request: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Times prompts from the request to the first token: alone, and beside seven other texts."""
    rng = random.Random(request["seed"])  # noqa: S311
    count = max(request["counts"])
    engine = open_engine(Path(request["folder"]), count)
    names = [name for name in engine.adapters if name.startswith("adapter-")]
    unused = iter(rng.sample(names, 2 * FIRST_TOKENS + 1))
    used = next(unused)
    found: dict[str, list[dict[str, float]]] = {}
    for beside in ("alone", "beside 7 texts"):
        if beside != "alone":
            for _ in range(ROWS - 1):
                engine.submit(random_tokens(8, rng), adapter=used, max_tokens=200)
            for _ in range(ROWS):
                engine.step()
        for _ in range(FIRST_TOKENS):
            for side, name in (
                ("no adapter", None),
                ("used before", used),
                ("not used before", next(unused)),
            ):
                found.setdefault(f"{side}, {beside}", []).append(asdict(_first(engine, name, rng)))
    return found


def _first(engine: Engine, name: str | None, rng: random.Random) -> Spent:
    tokens, spent = random_tokens(PROMPT, rng), Spent()

    def work() -> None:
        job = engine.submit(tokens, adapter=name, max_tokens=1)
        while not job.done:
            engine.step()

    spent.time(work)
    return spent


def memory(request: Mapping[str, Any]) -> dict[str, int]:
    """Measures anonymous memory after every adapter of a pool was used, or the base ran alone."""
    count = request["count"]
    engine = open_engine(Path(request["folder"]), count)
    rng = random.Random(0)  # noqa: S311
    for name in engine.adapters if count else ():
        engine.adapters.release(engine.adapters.find(name))
    for _ in range(2):
        some = rng.choices(list(engine.adapters), k=ROWS) if count else [None] * ROWS
        for name in some:
            engine.submit(random_tokens(PROMPT, rng), adapter=name, max_tokens=4)
        while engine.step():
            pass
    gc.collect()
    return {"bytes": _anonymous()}


def adding(request: Mapping[str, Any]) -> dict[str, Any]:
    from benchmarks.adding import measure

    folder = Path(request["folder"])
    return measure(folder / "app", folder / "mix-1.safetensors")


def _anonymous() -> int:
    """Bytes of this process that are of no file."""
    assert sys.platform == "linux", "anonymous memory is read from /proc"
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


PARTS = {each.__name__: each for each in (throughput, http, first_token, memory, adding)}
