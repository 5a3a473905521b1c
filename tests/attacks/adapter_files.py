"""Good files of adapters, and what reads them, for ``readers``."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import kronq
from kronq.errors import KronqError
from kronq.io.tensor_writer import tensor_bytes
from kronq.packed import locate, pack_adapter
from kronq.report.summary import summarize
from kronq.writers.peft import to_lora, to_peft
from tests import adapters
from tests.formats.contents import golden

SEALED = "sealed.safetensors"
"""Name of a packed file that gets a new checksum after each change."""
UNSEALED = "unsealed.safetensors"
"""Name of one that keeps its own, which then is of other contents."""
GOOD = "good"
"""Name of the folder whose files are not changed."""


def ones(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


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
        (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
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
        lambda: [*tensor_bytes(to_peft(adapter).tensors, {})],
        lambda: [*tensor_bytes(to_lora(adapter, dtype="fp16").tensors, {})],
        *(lambda c=c: kronq.quantize(adapter, c) for c in CONFIGS),
    ]
    if folder.name != GOOD:
        rng.choice(uses)()  # some of which not every adapter allows
        return
    for use in uses:  # once, so that what is made for the first time counts for no file
        with contextlib.suppress(KronqError):
            use()


CONFIGS = (
    kronq.Float16(),
    kronq.Uniform(bits=4),
    kronq.Native(bits=3),
    kronq.Compact(size=2000),
)


def sealed(name: str, file: str = SEALED) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / file).write_bytes(pack_adapter(golden()[name]))

    return make


def read_sealed(folder: Path, rng: random.Random) -> None:
    """Reads a packed file whose checksum is right, and what it tells of itself; packs it again."""
    path = folder / SEALED
    adapter = kronq.load(path)
    locate(path)
    summarize(adapter)
    for delta in adapter.values():
        assert all(m.float32().shape == m.shape for m in delta.matrices)
    again = pack_adapter(adapter)
    path.write_bytes(again)
    assert pack_adapter(kronq.load(path)) == again


def read_unsealed(name: str) -> Callable[[Path, random.Random], None]:
    """Reads a packed file whose checksum notices whatever was changed."""

    def read(folder: Path, rng: random.Random) -> None:
        path = folder / UNSEALED
        kronq.load(path)
        locate(path)
        assert path.read_bytes() == pack_adapter(golden()[name])

    return read
