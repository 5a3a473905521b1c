"""``python -m kronq.genai.bench.fresh_process``: one variant alone in a process, for its memory.

Reads a request as JSON from stdin and writes the figures as JSON to stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kronq.errors import KronqError


def measure_in_fresh_process(request: Mapping[str, Any]) -> dict[str, float | None]:
    """Runs ``measure`` in a new process.

    Raises:
        KronqError: It failed there.
    """
    # The new process imports from the same folders as this one.
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "kronq.genai.bench.fresh_process"],
        input=json.dumps(dict(request)),
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise KronqError("a measuring process failed", found=lines[-1] if lines else None)
    figures: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(request: Mapping[str, Any]) -> dict[str, float | None]:
    """Opens a model, generates once, and returns the time to open it and the peak memory.

    Args:
        request: ``model``, ``adapter`` (a prepared file or None), ``provider``, ``options``,
            ``threads``, ``prompt_tokens``, ``new_tokens``.

    Returns:
        ``load_ms``, with the time to load the adapter, and ``peak_mb``, Python and all libraries
        included; None where the system does not report it.
    """
    from kronq.genai.bench.machine import peak_bytes
    from kronq.genai.bench.timed_model import Workload, open_timed_model
    from kronq.onnx.model_files import find_model
    from kronq.onnx.providers import ExecutionTarget

    target = ExecutionTarget(request["provider"], request["options"], True, request["threads"])
    model = open_timed_model(find_model(request["model"]), target)
    start = time.perf_counter()
    if request["adapter"] is not None:
        model = model.with_adapter(Path(request["adapter"]))
    load = model.load_seconds + time.perf_counter() - start
    model.run(Workload(request["prompt_tokens"], request["new_tokens"]))
    peak = peak_bytes()
    return {"load_ms": load * 1e3, "peak_mb": None if peak is None else peak / 1e6}


if __name__ == "__main__":
    try:
        print(json.dumps(measure(json.load(sys.stdin))))  # noqa: T201
    except KronqError as error:
        sys.exit(str(error))
