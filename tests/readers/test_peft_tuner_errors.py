"""Adapters of PEFT's tuners that kronq refuses: by name, and with what to do."""

from __future__ import annotations

import inspect
from pathlib import Path

import peft
import pytest
import torch
from peft.utils.peft_types import PeftType

import kronq
from kronq.errors import FormatError, KronqError, MismatchError, UnsupportedError
from kronq.readers.peft_tuners import TUNERS
from kronq.readers.peft_tuners.refused import REFUSED
from tests.cli.command import Kronq
from tests.paths import ROOT
from tests.readers.tuners import ALONE, QV, WITH_BASE, change, lora, targets, train
from tests.tiny import llama


def test_an_initial_adapter_of_another_shape(tmp_path: Path) -> None:
    train(lora(init_lora_weights="pissa"), tmp_path / "a")
    train(lora(init_lora_weights="pissa", target_modules=QV), tmp_path / "b")
    with pytest.raises(MismatchError, match="the initial adapter has other layers"):
        kronq.load(tmp_path / "a" / "adapter", initial=tmp_path / "b" / "initial")


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "q_proj"]])
def test_lora_on_embeddings_is_refused_by_name(tmp_path: Path, targets: list[str]) -> None:
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=targets))
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match=r"embedding .*model\.embed_tokens .*merge"):
        kronq.load(tmp_path)


def test_another_base(tmp_path: Path) -> None:
    train(WITH_BASE["vera"](), tmp_path)
    llama(hidden=90, heads=3).save_pretrained(tmp_path / "other")
    with pytest.raises(FormatError, match=r"layer.*: incomplete or mismatched factors"):
        kronq.load(tmp_path / "adapter", base_weights=tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(KronqError, match=r"no weights of a base; expected model\.safetensors"):
        kronq.load(tmp_path / "adapter", base_weights=tmp_path / "empty")


def test_vera_in_stages_of_several_widths(tmp_path: Path) -> None:
    """A and B are as wide as the widest: a narrower stage would get inputs that it has not."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = torch.nn.ModuleList(
                [torch.nn.ModuleDict({"qkv": torch.nn.Linear(w, w)}) for w in (8, 16)]
            )

    model = peft.get_peft_model(Net(), peft.VeraConfig(r=4, target_modules=["qkv"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="the number of inputs of each layer"):
        kronq.load(tmp_path)


def test_the_command_line_takes_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(WITH_BASE["miss"](), tmp_path)
    command, adapter, out = Kronq(capsys), tmp_path / "adapter", tmp_path / "out.safetensors"
    assert "(hint: --base-weights names the base's folder" in command.refuses("inspect", adapter)
    base = tmp_path / "base"
    result = command("quantize", adapter, "--base-weights", base, "--bits", 8, "-o", out)
    assert result.code == 0, result.err
    assert set(kronq.load(out)) == set(kronq.load(adapter, base_weights=base))


def test_tinylora_without_projections(tmp_path: Path) -> None:
    """Their order is the model's, which the file does not keep."""
    train(targets(peft.TinyLoraConfig, save_projection=False), tmp_path)
    with pytest.raises(UnsupportedError, match="set save_projection in its config to True"):
        kronq.load(tmp_path / "adapter")


def test_tinylora_of_another_seed(tmp_path: Path) -> None:
    train(ALONE["tinylora"](), tmp_path)
    change(tmp_path / "adapter", projection_seed=7)
    with pytest.raises(FormatError, match="a projection that PEFT does not make of this seed"):
        kronq.load(tmp_path / "adapter")


def test_every_tuner_of_peft_is_read_or_refused_by_name() -> None:
    kinds = {kind.value for kind in PeftType}
    assert kinds - TUNERS.keys() <= REFUSED.keys()
    assert not TUNERS.keys() & REFUSED.keys()
    for kind, (what, hint) in REFUSED.items():
        with pytest.raises(UnsupportedError) as error:
            kronq.Adapter.from_state_dict({}, {"peft_type": kind})
        assert f"an adapter of {kind}: {what}" in str(error.value)
        assert hint in str(error.value)


def test_the_page_of_families_names_every_tuner() -> None:
    page = (ROOT / "docs/reference/families.md").read_text("utf-8")
    assert all(f"`{kind}`" in page for kind in TUNERS.keys() - {"LOKR"} | REFUSED.keys())
    assert all(f"| `{kind}` | {what} | {hint} |" in page for kind, (what, hint) in REFUSED.items())


@pytest.mark.parametrize("kind", REFUSED)
def test_the_hints_of_refused_tuners_exist(kind: str) -> None:
    """PEFT has what a hint names, for this tuner."""
    hint = REFUSED[kind][1]
    if kind not in set(PeftType):
        return
    model = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(kind))
    if "save_as_lora" in hint:
        assert callable(peft.save_as_lora)
        layers = vars(inspect.getmodule(model.tuner_layer_cls)).values()
        assert any(
            "supports_lora_conversion" in vars(each) for each in layers if isinstance(each, type)
        )
    if "merge_and_unload" in hint:
        assert callable(model.merge_and_unload)
