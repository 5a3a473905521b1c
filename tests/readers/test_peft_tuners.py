"""ΔW of every PEFT tuner, as kronq reads it, is W' − W of PEFT's own merge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import kronq
from kronq.errors import ArgumentError, UnsupportedError
from tests.readers.tuners import (
    ALONE,
    WITH_BASE,
    WITH_INITIAL,
    assert_same,
    change,
    linear_weights,
    lora,
    train,
)
from tests.tiny import llama


@pytest.mark.parametrize("name", ALONE)
def test_a_file_that_tells_all(tmp_path: Path, name: str) -> None:
    expected = train(ALONE[name](), tmp_path)
    assert_same(kronq.load(tmp_path / "adapter"), expected)


@pytest.mark.parametrize("name", WITH_BASE)
def test_with_the_base(tmp_path: Path, name: str) -> None:
    expected = train(WITH_BASE[name](), tmp_path)
    assert_same(kronq.load(tmp_path / "adapter", base_weights=tmp_path / "base"), expected)
    with pytest.raises(UnsupportedError, match=r"hint: base_weights names the base's folder"):
        kronq.load(tmp_path / "adapter")


@pytest.mark.parametrize("name", WITH_INITIAL)
def test_with_the_initial_adapter(tmp_path: Path, name: str) -> None:
    expected = train(WITH_INITIAL[name](), tmp_path)
    assert_same(kronq.load(tmp_path / "adapter", initial=tmp_path / "initial"), expected)
    with pytest.raises(UnsupportedError, match="initial names the folder of the adapter"):
        kronq.load(tmp_path / "adapter")


def test_a_half_precision_file(tmp_path: Path) -> None:
    """Factors that are multiplied become float32; plain ones stay as they came."""
    for name in ("adalora", "loha", "vera", "delora"):
        expected = train(ALONE[name](), tmp_path / name, "bf16")
        file = tmp_path / name / "adapter" / "adapter_model.safetensors"
        save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file)
        adapter = kronq.load(file.parent)
        errors = [
            np.linalg.norm(adapter[n].dense() - delta) / np.linalg.norm(delta)
            for n, delta in expected.items()
        ]
        assert max(errors) < 5e-3  # frozen parts were rounded too
    plain = train(lora(), tmp_path / "plain", "bf16")
    file = tmp_path / "plain" / "adapter" / "adapter_model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file)
    adapter = kronq.load(file.parent)
    assert_same(adapter, plain)
    assert adapter.nbytes == 2 * adapter.parameters


def test_adalora_with_pruned_ranks(tmp_path: Path) -> None:
    """A saved file has the ranks that are left; the scale stays that of the first rank."""
    base = llama()
    before = linear_weights(base)
    model = peft.get_peft_model(base, ALONE["adalora"]())
    pattern = {}
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
            if ".lora_E." in name:
                kept = torch.rand(len(parameter)) < 0.6
                kept[0] = True
                pattern[name.removeprefix("base_model.model.")] = kept.tolist()
                parameter[~kept] = 0
    model.peft_config["default"].rank_pattern = pattern
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(llama(), tmp_path)
    merged = linear_weights(loaded.double().merge_and_unload())
    adapter = kronq.load(tmp_path)
    assert len({delta.rank for delta in adapter.values()}) > 1
    assert_same(adapter, {name: merged[name] - before[name] for name in adapter})


def test_a_state_dict_with_its_base(tmp_path: Path) -> None:
    expected = train(WITH_BASE["miss"](), tmp_path)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    found = kronq.Adapter.from_state_dict(tensors, config, base_weights=tmp_path / "base")
    assert_same(found, expected)


def test_after_pefts_own_conversion(tmp_path: Path) -> None:
    expected = train(lora(init_lora_weights="pissa"), tmp_path)
    base = llama()
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    change(tmp_path / "initial", init_lora_weights=True)
    out = tmp_path / "converted"
    model.save_pretrained(out, path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    assert_same(kronq.load(out), expected)
    with pytest.raises(ArgumentError, match="not in an initial one"):
        kronq.load(out, initial=tmp_path / "initial")


def test_qalora_is_what_its_forward_computes() -> None:
    """It has no merge, and only runs on GPTQ bases: its own forward is the judge."""
    from peft.tuners.lora.layer import Linear
    from peft.tuners.lora.variants import QALoraLinearVariant

    torch.manual_seed(0)
    config = peft.LoraConfig(r=3, lora_alpha=5, use_qalora=True, qalora_group_size=4)
    module = Linear(torch.nn.Linear(24, 10), "default", config=config, r=3, lora_alpha=5)
    QALoraLinearVariant.init(module, "default", config)
    torch.nn.init.normal_(module.lora_B["default"].weight)
    x = torch.eye(24)
    with torch.no_grad():
        expected = QALoraLinearVariant.forward(module, "default", x, torch.zeros(24, 10)).T
    factors = {"A": module.lora_A, "B": module.lora_B}
    tensors = {f"x.lora_{side}.weight": each["default"].weight for side, each in factors.items()}
    adapter = kronq.Adapter.from_state_dict(tensors, config.to_dict())
    np.testing.assert_allclose(adapter["x"].dense(), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_loha_of_convolutions(tmp_path: Path, core: bool, kernel: int) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = torch.nn.Conv2d(8, 12, kernel)
            self.out = torch.nn.Linear(8, 8)

    config = peft.LoHaConfig(
        r=2, alpha=3, use_effective_conv2d=core, init_weights=False, target_modules=["down", "out"]
    )
    model = peft.get_peft_model(Net(), config)
    model.save_pretrained(tmp_path)
    expected = model.base_model.model.down.get_delta_weight("default").detach().numpy()
    delta = kronq.load(tmp_path)["down"]
    np.testing.assert_allclose(delta.dense(), expected.reshape(12, -1), rtol=1e-5, atol=1e-7)
    if core and kernel == 3:
        assert delta.weight_shape == expected.shape
