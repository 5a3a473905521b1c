"""Every reader of a file from outside reads it or refuses it: one line, a second, little memory."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import kronq
from kronq.base.hf_folder import check_hf_folder
from kronq.calibration.moment_store import MomentStore
from kronq.errors import KronqError
from kronq.evaluate.cache import TaskCache
from kronq.evaluate.score import ExampleScore
from kronq.io.files import new_folder
from kronq.onnx.graph.match_by_map import load_mapping
from kronq.onnx.model_files import find_model
from kronq.onnx.slots.read_onnx_adapter import read_onnx_adapter, refuse_unfit
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotGroup, SlotMember, SlotSpec
from kronq.packed import pack_adapter
from kronq.report.summary import summarize
from kronq.writers.peft import to_lora, to_peft
from tests import adapters
from tests.attacks.mutations import change_bytes, change_json, change_tensors, json_bytes
from tests.fuzzing import max_examples

GOOD = "good"
SECONDS = 1.0
"""CPU time that one file may take."""
MEGABYTES = 256
"""Growth of the process that one file may cause."""


@dataclass(frozen=True)
class Reader:
    """A good input and what reads it.

    Attributes:
        make: Writes good files into a folder.
        read: Reads them, and all values in them.
    """

    make: Callable[[Path], object]
    read: Callable[[Path, random.Random], object]


def ones(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), "utf-8")


def peft(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tensors: dict[str, np.ndarray] = {}
        for i in range(2):
            for module in ("q_proj", "v_proj"):
                name = f"base_model.model.model.layers.{i}.self_attn.{module}"
                if kind == "LORA":
                    tensors[f"{name}.lora_A.weight"] = ones(2, 9)
                    tensors[f"{name}.lora_B.weight"] = ones(15, 2)
                else:
                    tensors[f"{name}.lokr_w1"] = ones(2, 3)
                    tensors[f"{name}.lokr_w2_a"] = ones(8, 2)
                    tensors[f"{name}.lokr_w2_b"] = ones(2, 3)
        config = {
            **{"peft_type": kind, "r": 2, "alpha": 4, "lora_alpha": 4, "task_type": "CAUSAL_LM"},
            **{"target_modules": ["q_proj", "v_proj"], "bias": "none", "use_rslora": False},
            **{"rank_pattern": {r"^model\.layers\.1\..*": 2}, "alpha_pattern": {"q_proj": 8}},
            **{"base_model_name_or_path": "maker/base", "modules_to_save": None},
            **{"exclude_modules": None, "layers_to_transform": None, "init_lora_weights": True},
        }
        write_json(folder / "adapter_config.json", config)
        save_file(tensors, folder / "adapter_model.safetensors")

    return make


def lycoris(folder: Path) -> None:
    tensors = {}
    for i in range(2):
        key = f"lycoris_model_layers_{i}_mlp_up_proj"
        tensors |= {f"{key}.lokr_w1": ones(2, 3), f"{key}.alpha": np.array(4, np.float32)}
        tensors |= {f"{key}.lokr_w2_a": ones(8, 2), f"{key}.lokr_w2_b": ones(2, 3)}
        tensors[f"{key}.scalar"] = np.array(0.5, np.float32)
        key = f"lora_unet_strange_{i}_to_q"
        tensors |= {f"{key}.lora_up.weight": ones(8, 2), f"{key}.lora_down.weight": ones(2, 6)}
        tensors[f"{key}.alpha"] = np.array(4, np.int64)
    save_file(tensors, folder / "x.safetensors", {"ss_base_model_version": "x"})


def factors(folder: Path) -> None:
    tensors = {}
    for i in range(2):
        tensors |= {f"h.{i}.A": ones(4, 2), f"h.{i}.B1": ones(5, 2), f"h.{i}.B2": ones(2, 6)}
    shapes = json.dumps({"h.0": [19, 12], "h.1": [20, 12]})
    save_file(tensors, folder / "x.safetensors", {"alpha": "8", "shapes": shapes})


def packed(config: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        quantized = kronq.quantize(adapters.adapter(layers=2), config)
        (folder / "x.safetensors").write_bytes(pack_adapter(quantized))

    return make


def read_adapter(folder: Path, rng: random.Random) -> None:
    path = folder / "x.safetensors"
    adapter = kronq.load(path if path.exists() else folder, verify=False)
    summarize(adapter)
    for delta in adapter.values():
        assert all(m.float32().shape == m.shape for m in delta.matrices)
        assert np.isfinite(delta.scale)
    uses: list[Callable[[], object]] = [
        lambda: kronq.measure(adapter, adapter),
        lambda: to_peft(adapter),
        lambda: to_lora(adapter, dtype="fp16"),
        *(lambda c=c: kronq.quantize(adapter, c) for c in CONFIGS),
    ]
    if folder.name != GOOD:
        rng.choice(uses)()  # some of which not every adapter allows


CONFIGS = (
    kronq.Float16(),
    kronq.Uniform(bits=4),
    kronq.Native(bits=3),
    kronq.Compact(size=2000),
)
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


def scores(folder: Path) -> None:
    TaskCache(folder).scores("0" * 40, lambda: [ExampleScore(1.5, 2, (3, 4), True)] * 3)


def moments(folder: Path) -> None:
    MomentStore(folder).write("x", ones(4, 4))
    MomentStore(folder).checkpoint({"x": ones(4, 4)}, 3)


def read_moments(folder: Path, rng: random.Random) -> None:
    MomentStore(folder).read("x", 4)
    MomentStore(folder).resume({"x": 4})


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


READERS = {
    "PEFT LoKr": Reader(peft("LOKR"), read_adapter),
    "PEFT LoRA": Reader(peft("LORA"), read_adapter),
    "LyCORIS": Reader(lycoris, read_adapter),
    "factors": Reader(factors, read_adapter),
    "packed, whole bytes": Reader(packed(kronq.Uniform(bits=4)), read_adapter),
    "packed, native": Reader(packed(kronq.Native(bits=3)), read_adapter),
    "packed, compact": Reader(packed(kronq.Compact(size=1600)), read_adapter),
    "slots": Reader(slots, read_slots),
    ".onnx_adapter": Reader(onnx_adapter, read_onnx),
    "genai_config.json": Reader(genai, read_genai),
    "config.json": Reader(hf, lambda folder, _: check_hf_folder(folder)),
    "map": Reader(
        lambda folder: write_json(folder / "x.json", {"a.b": "/a/b/MatMul", "c": "c.weight"}),
        lambda folder, _: load_mapping(folder / "x.json"),
    ),
    "examples": Reader(examples, lambda folder, _: kronq.read_examples(folder / "x.jsonl")),
    "scores": Reader(scores, lambda folder, _: TaskCache(folder).scores("0" * 40, list)),
    "moments": Reader(moments, read_moments),
    "mark": Reader(marked, read_marked),
}


def change_file(rng: random.Random, path: Path) -> None:
    """Changes a file by its kind, once or a few times."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = path.read_bytes()
        try:
            path.write_bytes(_changed(rng, path, data))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            path.write_bytes(change_bytes(rng, data))  # it was damaged already


def _changed(rng: random.Random, path: Path, data: bytes) -> bytes:
    if path.suffix == ".safetensors":
        return change_tensors(rng, data)
    if path.suffix == ".jsonl":
        lines = data.split(b"\n")
        i = rng.randrange(len(lines))
        lines[i] = json_bytes(rng, change_json(rng, json.loads(lines[i])))
        return b"\n".join(lines)
    if path.suffix == ".json":
        return json_bytes(rng, change_json(rng, json.loads(data)))
    return change_bytes(rng, data)


def peak_megabytes() -> float:
    """Returns the most memory that this process has ever had."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(name: str, seed: int, good: Path, folder: Path) -> bool:
    """Changes a copy of good files and reads it; tells whether that was refused."""
    rng = random.Random(seed)  # noqa: S311
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    change_file(rng, rng.choice(sorted(f for f in folder.iterdir() if f.is_file())))
    memory, begun = peak_megabytes(), time.process_time()
    refused = False
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            READERS[name].read(folder, rng)
    except KronqError as error:
        refused = True
        assert "\n" not in str(error), (name, seed)  # noqa: PT017
        assert len(str(error)) < 50_000, (name, seed)  # noqa: PT017
    except Exception as error:
        raise AssertionError(f"{name}, seed {seed}") from error
    assert time.process_time() - begun < SECONDS, (name, seed)
    assert peak_megabytes() - memory < MEGABYTES, (name, seed)
    return refused


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reader → folder of good files, each read once."""
    found = {}
    for name, reader in READERS.items():
        found[name] = tmp_path_factory.mktemp("good")
        reader.make(found[name])
        copy = tmp_path_factory.mktemp("copy") / GOOD
        shutil.copytree(found[name], copy)
        reader.read(copy, random.Random(0))  # noqa: S311
    return found


@pytest.mark.parametrize("name", READERS)
@max_examples(40)
@given(seed=st.integers(0, 2**40))
def test_mutated_files(name: str, seed: int, goods: dict[str, Path]) -> None:
    attempt(name, seed, goods[name], goods[name].with_name("mutated"))
