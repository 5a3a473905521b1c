"""``python -m kronq.genai.bench.child``: one side of a bench alone in a process, for its memory.

Reads a request as JSON from stdin and writes what it found as JSON to stdout.
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


def in_a_child(request: Mapping[str, Any]) -> dict[str, float | None]:
    """``alone`` in a fresh process.

    Raises:
        KronqError: It failed there.
    """
    # What this process imports from, the child imports from.
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "kronq.genai.bench.child"],
        input=json.dumps(dict(request)),
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise KronqError("a measuring process failed", found=lines[-1] if lines else None)
    found: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def alone(request: Mapping[str, Any]) -> dict[str, float | None]:
    """Opens a model, generates once, and tells the time to open it and the most memory taken.

    Args:
        request: ``model``, ``adapter`` (a prepared file or None), ``provider``, ``options``,
            ``threads``, ``prompt_tokens``, ``new_tokens``.

    Returns:
        ``load_ms``, the adapter's own loading included, and ``peak_mb``, Python and all libraries
        included; None where the system does not tell.
    """
    from kronq.genai.bench.machine import peak_bytes
    from kronq.genai.bench.timed_model import Work, open_text_model
    from kronq.onnx.model_files import find_model
    from kronq.onnx.providers import Place

    place = Place(request["provider"], request["options"], required=True)
    model = open_text_model(find_model(request["model"]), place, request["threads"])
    start = time.perf_counter()
    if request["adapter"] is not None:
        model = model.with_adapter(Path(request["adapter"]))
    load = model.load_seconds + time.perf_counter() - start
    model.run(Work(request["prompt_tokens"], request["new_tokens"]))
    peak = peak_bytes()
    return {"load_ms": load * 1e3, "peak_mb": None if peak is None else peak / 1e6}


if __name__ == "__main__":
    try:
        print(json.dumps(alone(json.load(sys.stdin))))  # noqa: T201
    except KronqError as error:
        sys.exit(str(error))
