"""``python -m benchmarks.bases FLOAT OTHER …``: bases beside the float one, one thread.

Decode is one token after 64 cached ones, alternating in one process; memory and load time are of a
process each that loads the model and decodes one token.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from kronq.genai.bench.machine import peak_bytes

PAST, ROUNDS = 64, 41


def load(folder: str) -> tuple[ort.InferenceSession, dict[str, Any]]:
    decoder = json.loads(Path(folder, "genai_config.json").read_text())["model"]["decoder"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        Path(folder, "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    past = np.zeros((1, decoder["num_key_value_heads"], PAST, decoder["head_size"]), np.float32)
    feed = {i.name: past for i in session.get_inputs() if i.name.startswith("past")}
    feed["input_ids"] = np.array([[42]])
    feed["attention_mask"] = np.ones((1, PAST + 1), np.int64)
    return session, feed


def alone(folder: str) -> None:
    start = time.perf_counter()
    session, feed = load(folder)
    seconds = time.perf_counter() - start
    session.run(["logits"], feed)
    peak = (peak_bytes() or 0) / 2**20
    sys.stdout.write(f"{folder}: loaded in {seconds:.2f} s, peak {peak:.0f} MiB\n")


def main(folders: list[str]) -> None:
    for folder in folders:
        subprocess.run([sys.executable, "-m", "benchmarks.bases", folder], check=True)
    loaded = [load(folder) for folder in folders]
    times = np.empty((ROUNDS, len(folders)))
    for row in times:
        for i, (session, feed) in enumerate(loaded):
            start = time.perf_counter()
            session.run(["logits"], feed)
            row[i] = 1e3 * (time.perf_counter() - start)
    times = times[1:]
    ratios = times / times[:, :1]
    for i, folder in enumerate(folders):
        low, middle, high = np.percentile(ratios[:, i], [10, 50, 90])
        sys.stdout.write(
            f"{folder}: {np.median(times[:, i]):.1f} ms, {middle:.2f} ({low:.2f} to {high:.2f})\n"
        )


if __name__ == "__main__":
    alone(sys.argv[1]) if len(sys.argv) == 2 else main(sys.argv[1:])
