"""A server of ``benchmarks.serving_http``, in a process of its own, with one thread that computes.

A request as JSON in, the server's URL out; it ends at SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving_files import MIXED, lora_file, pool_of
from benchmarks.serving_mix import CONTEXT, ROWS, Endless

QUEUE = 1000
BASE = "base"


def kronq(request: Mapping[str, Any]) -> None:
    """``kronq serve`` with a pool, whose texts do not end by themselves."""
    from kronq.serve.run import run_server
    from kronq.serve.service import ServerOptions, open_service

    folder = Path(request["folder"])
    service = open_service(
        folder / "app",
        ServerOptions(BASE, queue=QUEUE),
        pool=pool_of(folder, request["count"]),
        rows=ROWS,
        context=CONTEXT,
        threads=1,
    )
    service.engine.tokenizer = Endless(service.engine.tokenizer)  # type: ignore[assignment]
    run_server(service, "127.0.0.1", 0, 1, _tell)


def llama_cpp(request: Mapping[str, Any]) -> None:
    """llama-server, as the wheel ``xllamacpp`` has it, with the adapters of the mix."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["gguf"]
    params.n_ctx, params.n_parallel, params.verbosity = ROWS * CONTEXT, ROWS, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(lora_file(Path(request["folder"]), number)), 0.0)
        for number in range(MIXED)
    ]
    server = xllamacpp.Server(params)
    _tell(server.listening_address)
    signal.pause()


def _tell(url: str) -> None:
    print(f"\n{url}", flush=True)


if __name__ == "__main__":
    given = json.loads(sys.stdin.readline())
    {"kronq": kronq, "llama.cpp": llama_cpp}[given["server"]](given)
