"""Logits of ONNX Runtime on the CPU, of the same adapters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort


def cpu_logits(folder: Path, adapter: str | None, ids: list[int]) -> np.ndarray:
    """Of ONNX Runtime on the CPU, with its own LoraAdapter."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
    feeds = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
    }
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    decoder = config["model"]["decoder"]
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    feeds |= {v.name: empty for v in session.get_inputs() if v.name not in feeds}
    run = ort.RunOptions()
    if adapter is not None:
        lora = ort.LoraAdapter()
        lora.Load(str(folder / f"{adapter}.onnx_adapter"))
        run.add_active_adapter(lora)
    return session.run(["logits"], feeds, run)[0]
