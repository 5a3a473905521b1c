"""Good files that are no adapters, and what reads them, for ``readers``."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import kronq
from kronq.calibration.moment_store import MomentStore
from kronq.evaluate.cache import TaskCache
from kronq.evaluate.score import ExampleScore
from kronq.io.files import new_folder
from kronq.onnx.model_files import find_model
from kronq.onnx.slots.read_onnx_adapter import read_onnx_adapter, refuse_unfit
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotGroup, SlotMember, SlotSpec
from tests import adapters
from tests.attacks.adapter_files import ones


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), "utf-8")


SLOTS = SlotSpec(
    groups=(
        SlotGroup(
            name="model.layers.0.self_attn",
            d_in=9,
            lead=2,
            members=(
                SlotMember(layer="model.layers.0.self_attn.q_proj", d_out=15),
                SlotMember(layer="model.layers.0.self_attn.v_proj", d_out=15),
            ),
        ),
        SlotGroup(
            name="x", d_in=9, lead=2, members=(SlotMember(layer="model.layers.1.x", d_out=15),)
        ),
    )
)


def slots(folder: Path) -> None:
    (folder / "kronq_slots.json").write_text(SLOTS.model_dump_json())


def read_slots(folder: Path, rng: random.Random) -> None:
    spec = SlotSpec.read(folder)
    assert all(isinstance(name, str) for name in (*spec.layers, *spec.input_names))
    adapter = kronq.Adapter({"model.layers.1.x": adapters.lora(np.random.default_rng(0), 15, 9)})
    slot_inputs(adapter, spec)


def onnx_adapter(folder: Path) -> None:
    rng = np.random.default_rng(0)
    adapter = kronq.Adapter({"model.layers.1.x": adapters.lora(rng, 15, 9)})
    kronq.write_onnx_adapter(adapter, SLOTS, folder / "x.onnx_adapter")


def read_onnx(folder: Path, rng: random.Random) -> None:
    refuse_unfit(folder / "x.onnx_adapter", SLOTS)
    assert read_onnx_adapter(folder / "x.onnx_adapter").keys() == SLOTS.input_names


GENAI = {
    "model": {
        **{"bos_token_id": 0, "eos_token_id": [1], "context_length": 64, "vocab_size": 60},
        "decoder": {
            "session_options": {"log_id": "x", "provider_options": []},
            **{"filename": "model.onnx", "head_size": 16, "num_key_value_heads": 1},
            **{"num_hidden_layers": 2, "inputs": {"input_ids": "input_ids"}},
            "sliding_window": {"window_size": 16},
        },
    },
    "search": {"max_length": 64, "top_k": 1},
}


def genai(folder: Path) -> None:
    write_json(folder / "genai_config.json", GENAI)
    (folder / "model.onnx").write_bytes(b"")


def read_genai(folder: Path, rng: random.Random) -> None:
    files = find_model(folder)
    files.model_count("context_length")
    files.decoder("head_size")


def hf(folder: Path) -> None:
    write_json(folder / "config.json", {"architectures": ["LlamaForCausalLM"], "vocab_size": 9})
    (folder / "tokenizer.json").write_bytes(b"")
    save_file({"w": np.zeros(1, np.float32)}, folder / "model.safetensors")


def examples(folder: Path) -> None:
    rows = [
        {"question": "q\u2028?", "choices": ["a", "b"], "answer": 1},
        {"prompt": "p", "answer": "a"},
        {"text": "t"},
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "x.jsonl").write_text(text, "utf-8")


SCORES = [ExampleScore(1.5, 2, (3, 4), True)] * 3


def scores(folder: Path) -> None:
    TaskCache(folder).scores("0" * 40, lambda: SCORES)


def read_scores(folder: Path, rng: random.Random) -> None:
    assert TaskCache(folder).scores("0" * 40, list) in ([], SCORES)


def moments(folder: Path) -> None:
    MomentStore(folder).write("x", ones(4, 4))
    MomentStore(folder).checkpoint({"x": ones(4, 4)}, 3)


def read_moments(folder: Path, rng: random.Random) -> None:
    moment = MomentStore(folder).read("x", 4)
    assert moment is None or np.array_equal(moment, ones(4, 4))
    sums, done = MomentStore(folder).resume({"x": 4})
    assert np.array_equal(sums["x"], ones(4, 4) if done else np.zeros((4, 4)))
    assert done in (0, 3)


def marked(folder: Path) -> None:
    with new_folder(folder / "out", "convert", force=False) as work:
        (work / "x").write_bytes(b"")
    for file in (folder / "out").iterdir():
        if file.name != "x":
            shutil.copy(file, folder / file.name)


def read_marked(folder: Path, rng: random.Random) -> None:
    for file in folder.iterdir():
        if file.is_file():
            shutil.copy(file, folder / "out" / file.name)
    with new_folder(folder / "out", "convert", force=True):
        pass
