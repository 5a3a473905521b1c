"""The same mix of requests over HTTP: ``kronq serve`` and llama.cpp's server."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving_files import MIXED, mixed
from benchmarks.serving_mix import Request, Spent, random_mix
from benchmarks.serving_server import BASE
from benchmarks.turns import shuffled

Fields = Callable[[Request], dict[str, Any]]


def http(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answers one mix with each server, in random order; returns the tokens and the seconds.

    CPU time is that of the server's whole process, the one that asks left out.
    """
    rng = random.Random(request["seed"])  # noqa: S311
    mix = random_mix(request["requests"], rng)
    sides: dict[str, tuple[str, Fields]] = {
        "kronq serve, the base": ("kronq", lambda _: {"model": BASE}),
        f"kronq serve, {max(request['counts']):,}": (
            "kronq",
            lambda each: {"model": mixed(each.adapter)},
        ),
        "llama.cpp, the base": ("llama.cpp", lambda _: _lora(None)),
        "llama.cpp, one adapter": ("llama.cpp", lambda _: _lora(0)),
        "llama.cpp": ("llama.cpp", lambda each: _lora(each.adapter)),
    }
    spent: dict[str, Spent] = {}
    with _started("kronq", request) as ours, _started("llama.cpp", request) as theirs:
        servers = {"kronq": ours, "llama.cpp": theirs}
        for server, fields in sides.values():
            _answer(servers[server], mix[:2], fields)  # does not count
        for name in shuffled(sides, rng):
            server, fields = sides[name]
            spent[name] = _answer(servers[server], mix, fields)
    return {
        "new_tokens": sum(each.length for each in mix),
        "prompt_tokens": sum(len(each.prompt) for each in mix),
        "sides": {name: asdict(spent[name]) for name in sides},
    }


def _lora(adapter: int | None) -> dict[str, Any]:
    return {
        "lora": [{"id": number, "scale": float(number == adapter)} for number in range(MIXED)],
        "ignore_eos": True,
        "cache_prompt": False,
    }


@contextmanager
def _started(server: str, request: Mapping[str, Any]) -> Iterator[tuple[str, psutil.Process]]:
    """Starts a server; yields its URL and its process."""
    given = {
        "server": server,
        "count": max(request["counts"]),
        "folder": str(Path(request["folder"]).resolve()),
        "gguf": request["gguf"],
    }
    command = [sys.executable, "-m", "benchmarks.serving_server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
            url = next(line.strip() for line in process.stdout if line.startswith("http"))
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


def _answer(server: tuple[str, psutil.Process], mix: Sequence[Request], fields: Fields) -> Spent:
    """Sends all requests at the same time, as each would come from a client of its own."""
    url, process = server

    def ask(each: Request) -> int:
        common = {"prompt": list(each.prompt), "max_tokens": each.length, "temperature": 0}
        found = httpx.post(
            f"{url}/v1/completions", json={**common, **fields(each)}, timeout=600
        ).raise_for_status()
        return int(found.json()["usage"]["completion_tokens"])

    cpu, begin = _cpu_seconds(process), time.perf_counter()
    with ThreadPoolExecutor(len(mix)) as clients:
        lengths = list(clients.map(ask, mix))
    spent = Spent(_cpu_seconds(process) - cpu, time.perf_counter() - begin)
    assert lengths == [each.length for each in mix]
    return spent


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
