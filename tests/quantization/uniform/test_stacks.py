"""Adapters in stacks are quantized, measured and packed as their layers one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kronq
from kronq.io import overflow
from kronq.model.adapter import Adapter
from kronq.model.stacks import StackedLayers
from kronq.quantization.error_budget import relative_error
from kronq.quantization.uniform import layer as uniform
from tests.adapters import dense

CONFIGS = {
    "fp16": kronq.Float16(),
    "rtn": kronq.Uniform(4, "rtn"),
    "groups": kronq.Uniform(3, "rtn", group_size=4),
    "balanced": kronq.Uniform(4),
    "widths": kronq.Uniform(4, "rtn", overrides={r"layers\.1\.": 8, "up_proj": 2}),
    "unbiased": kronq.Uniform(2, "rtn", refit="unbiased"),
}


def stacked(kind: str, seed: int = 0, layers: int = 5) -> Adapter:
    """Two modules of one shape, whose stacks share a group of the file, and a third."""
    random = np.random.default_rng(seed)
    shapes = {"q_proj": (24, 20), "o_proj": (24, 20), "up_proj": (40, 12)}
    tensors = {}
    for layer in range(layers):
        for module, (rows, cols) in shapes.items():
            name = f"model.layers.{layer}.{module}"
            if kind == "lora":
                tensors[f"{name}.lora_A.weight"] = random.normal(size=(4, cols))
                tensors[f"{name}.lora_B.weight"] = 1e-3 * random.normal(size=(rows, 4))
            else:
                tensors[f"{name}.lokr_w1"] = random.normal(size=(4, 4))
                tensors[f"{name}.lokr_w2"] = random.normal(size=(rows // 4, cols // 4))
    arrays = {name: array.astype(np.float32) for name, array in tensors.items()}
    settings = {"lora": {"r": 4, "lora_alpha": 6}, "lokr": {"r": 9, "alpha": 3}}[kind]
    return Adapter.from_state_dict(arrays, {"peft_type": kind.upper(), **settings})


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_files_are_the_same(kind: str, method: str) -> None:
    adapter = stacked(kind)
    assert isinstance(adapter.layers, StackedLayers)
    apart = replace(adapter, layers=dict(adapter.layers))
    made, expected = (kronq.quantize(each, CONFIGS[method]) for each in (adapter, apart))
    assert isinstance(made.layers, StackedLayers) or method == "unbiased"
    assert kronq.pack(made) == kronq.pack(expected)
    pairs = [(dense(adapter[name]), dense(made[name])) for name in adapter]
    error = sum(np.sum((w - q) ** 2) for w, q in pairs) / sum(np.sum(w**2) for w, _ in pairs)
    assert relative_error(adapter, made) == pytest.approx(np.sqrt(error), rel=1e-6)


@pytest.mark.parametrize("method", ["fp16", "rtn", "balanced"])
def test_values_beyond_memory_wait_in_a_file(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = stacked("lora")
    expected = kronq.pack(kronq.quantize(adapter, CONFIGS[method]))
    monkeypatch.setattr(overflow, "KEPT", 500)
    monkeypatch.setattr(uniform, "_AT_ONCE", 200)  # two layers
    made = kronq.quantize(adapter, CONFIGS[method])
    assert kronq.pack(made) == expected
    some = made["model.layers.3.q_proj"].b.left
    np.testing.assert_array_equal(some.float32(), some.float32())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    adapter = stacked("lora")
    stack = next(s for s in adapter.stacks if "model.layers.2.o_proj" in s.names)
    stack.b[1].array.flags.writeable = True
    stack.b[1].array[2, 1, 1] = value
    with pytest.raises(kronq.FormatError, match="not finite") as error:
        kronq.quantize(adapter, kronq.Uniform(4, "rtn"))
    assert error.value.layer == "model.layers.2.o_proj"
