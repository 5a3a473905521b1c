"""State dicts that are like one before are read as if they were the first."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from peft import LoKrConfig, LoraConfig

import kronq
from kronq import Adapter
from kronq.io.shared_items import Sender, receive
from kronq.model.stacks import StackedLayers
from tests.tiny import LINEARS, save_peft

CONFIGS: dict[str, Any] = {
    "lora": lambda: LoraConfig(target_modules=LINEARS, r=4, rank_pattern={"q_proj": 2}),
    "lokr": lambda: LoKrConfig(target_modules=LINEARS, r=4, decompose_factor=4),
    "lokr-whole": lambda: LoKrConfig(target_modules=LINEARS, r=64),
    "dora": lambda: LoraConfig(target_modules=LINEARS, r=4, use_dora=True),
    "bias": lambda: LoraConfig(target_modules=["q_proj"], r=4, modules_to_save=["lm_head"]),
}


def random_tensors(folder: Path, seed: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Returns a saved adapter's tensors with other values, which are saved too."""
    random, file = np.random.default_rng(seed), folder / "adapter_model.safetensors"
    tensors = {
        name: random.normal(size=array.shape).astype(dtype)
        for name, array in safetensors.numpy.load_file(file).items()
    }
    safetensors.numpy.save_file(tensors, file)
    return tensors


def assert_same(found: Adapter, expected: Adapter) -> None:
    assert list(found) == list(expected)
    assert list(found.carried) == list(expected.carried)
    for name, delta in expected.items():
        assert (found[name].scale, found[name].kernel) == (delta.scale, delta.kernel)
        assert [m.dtype for m in found[name].matrices] == [m.dtype for m in delta.matrices]
        np.testing.assert_array_equal(found[name].dense(), delta.dense())
        assert (found[name].magnitude is None) == (delta.magnitude is None)


@pytest.mark.parametrize("kind", CONFIGS)
def test_values_are_those_of_each(tmp_path: Path, kind: str) -> None:
    """The judge is the file with the same values, which nothing is remembered of."""
    save_peft(CONFIGS[kind](), tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    for seed in range(3):
        dtype = np.float16 if seed == 1 else np.float32
        tensors = random_tensors(tmp_path, seed, dtype)
        assert_same(Adapter.from_state_dict(tensors, settings), kronq.load(tmp_path))
    assert isinstance(Adapter.from_state_dict(tensors, settings).layers, StackedLayers) == (
        kind in ("lora", "lokr", "lokr-whole")
    )


def lora(seed: int, rank: int = 2, columns: int = 6, dtype: Any = np.float32) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"A": (rank, columns), "B": (5, rank)}
    return {
        f"model.layers.{layer}.{module}.lora_{side}.weight": random.normal(size=shape).astype(dtype)
        for layer in range(3)
        for module in ("q_proj", "up_proj")
        for side, shape in shapes.items()
    }


def test_other_settings_shapes_and_dtypes_are_read_anew() -> None:
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    first = Adapter.from_state_dict(lora(0), settings)
    assert first["model.layers.0.q_proj"].scale == 2
    settings["lora_alpha"] = 6  # the same object
    assert Adapter.from_state_dict(lora(1), settings)["model.layers.0.q_proj"].scale == 3
    with pytest.raises(kronq.FormatError, match="rank"):
        Adapter.from_state_dict(lora(1, rank=3), settings)
    wide = Adapter.from_state_dict(lora(1, columns=7), settings)
    assert {delta.shape for delta in wide.values()} == {(5, 7)}
    bfloat16 = Adapter.from_state_dict(lora(1, dtype=ml_dtypes.bfloat16), settings)
    assert bfloat16["model.layers.0.q_proj"].b.left.dtype == "bfloat16"
    transposed = {name: np.asfortranarray(array) for name, array in lora(1).items()}
    again = Adapter.from_state_dict(transposed, settings)
    np.testing.assert_array_equal(
        again["model.layers.2.up_proj"].dense(),
        Adapter.from_state_dict(lora(1), settings)["model.layers.2.up_proj"].dense(),
    )
    swapped = dict(reversed(lora(1).items()))
    assert_same(Adapter.from_state_dict(swapped, settings), again)


def test_settings_that_cannot_be_compared_are_read_each_time() -> None:
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "hook": lambda: None}
    made = [Adapter.from_state_dict(lora(seed), settings) for seed in range(2)]
    assert not any(isinstance(each.layers, StackedLayers) for each in made)


def test_it_travels_as_its_stacks_alone() -> None:
    """What was built of it, and what can be built again, stays behind."""
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    adapter = Adapter.from_state_dict(lora(0), settings)
    untouched = len(pickle.dumps(adapter))
    assert all(delta.shape == (5, 6) for delta in adapter.values())
    assert len(pickle.dumps(adapter)) == untouched
    sender = Sender()
    item = sender.send(adapter)
    assert len(item.sizes) == 4  # two modules' A and B
    assert_same(receive(item), adapter)
    sender.received(item)
    sender.close()
