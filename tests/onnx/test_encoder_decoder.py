"""One adapter of an encoder–decoder, and a graph for each half: beside PEFT.

Encoders are exported by themselves, so their layers are not called ``encoder`` there; decoders in
both ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import kronq
from kronq.errors import ArgumentError, MismatchError
from tests.cli.conftest import kronq as kronq_cli

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

__all__ = ["kronq_cli"]

TOKENS = {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
IDS = {"input_ids": np.array([[5, 6, 7, 8, 9, 10]])}
HALVES = ("encoder", "decoder", "decoder named")


def t5() -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(**TOKENS, **sizes)
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    sizes = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    config = transformers.BartConfig(
        **TOKENS, **heads, **layers, **sizes, bos_token_id=0, max_position_embeddings=32
    )
    return transformers.BartForConditionalGeneration(config)


MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "t5": (t5, ["q", "v"]),
    "bart": (bart, ["q_proj", "v_proj"]),
}


class Half(torch.nn.Module):
    """One half with plain inputs and one output; its layers are called as in the half alone."""

    def __init__(self, half: Any, name: str | None) -> None:
        super().__init__()
        self._half = [half]
        for child, module in half.named_children() if name is None else [(name, half)]:
            self.add_module(child, module)

    def forward(self, input_ids: Any, encoder_hidden_states: Any = None) -> Any:
        given = {} if encoder_hidden_states is None else {"use_cache": False}
        if given:
            given["encoder_hidden_states"] = encoder_hidden_states
        return self._half[0](input_ids=input_ids, **given).last_hidden_state


def export(model: Any, half: str, out: Path) -> None:
    args, names = [torch.tensor(IDS["input_ids"])], ["input_ids"]
    if half == "encoder":
        module = Half(model.get_encoder(), None)
    else:
        args.append(torch.zeros(1, 6, 32))
        names.append("encoder_hidden_states")
        module = Half(model.get_decoder(), "decoder" if half == "decoder named" else None)
    kept = {"input_names": names, "output_names": ["last_hidden_state"], "dynamo": False}
    torch.onnx.export(module.eval(), tuple(args), out, **kept)


@dataclass(frozen=True)
class Trained:
    """An adapter, the graphs of its base's halves, and PEFT's hidden states."""

    adapter: Path
    folder: Path
    feeds: dict[str, dict[str, np.ndarray]]
    wanted: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=MODELS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    make, targets = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = make().eval()
    model.config.use_cache = False
    for half in HALVES:
        export(model, half, folder / f"{half}.onnx")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="SEQ_2_SEQ_LM")
    adapted = peft.get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder / "a")
    ids = torch.tensor(IDS["input_ids"])
    inner = adapted.base_model.model
    with torch.no_grad():
        hidden = inner.get_encoder()(ids).last_hidden_state
        decoded = inner.get_decoder()(input_ids=ids, encoder_hidden_states=hidden)
    feeds = {"encoder": IDS, "decoder": IDS | {"encoder_hidden_states": hidden.numpy()}}
    wanted = {"encoder": hidden.numpy(), "decoder": decoded.last_hidden_state.numpy()}
    return Trained(folder / "a", folder, feeds, wanted)


@pytest.mark.parametrize("form", ["branch", "slots", "merged"])
@pytest.mark.parametrize("half", HALVES)
def test_a_half_beside_peft(trained: Trained, tmp_path: Path, half: str, form: str) -> None:
    name = half.split()[0]
    adapter = kronq.load(trained.adapter, only=rf"(^|\.){name}\.")
    kronq.export_onnx(adapter, trained.folder / f"{half}.onnx", tmp_path / "out", form)
    model = tmp_path / "out" / "model.onnx"
    if form == "slots":
        kronq.write_onnx_adapter(adapter, tmp_path / "out", tmp_path / "a.onnx_adapter")
        session = kronq.Session(tmp_path / "out", {"a": tmp_path / "a.onnx_adapter"})
        (found,) = session.run(trained.feeds[name], adapter="a").values()
    else:
        (found,) = ort.InferenceSession(str(model)).run(None, trained.feeds[name])
    np.testing.assert_allclose(found, trained.wanted[name], atol=1e-4)


@pytest.mark.parametrize("half", HALVES)
def test_a_whole_adapter_is_refused(trained: Trained, tmp_path: Path, half: str) -> None:
    with pytest.raises(MismatchError, match="only takes the adapter's part"):
        kronq.export_onnx(
            kronq.load(trained.adapter), trained.folder / f"{half}.onnx", tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("flat", [False, True])
def test_the_other_half_has_no_place(trained: Trained, half: str, flat: bool) -> None:
    other = "decoder" if half == "encoder" else "encoder"
    adapter = kronq.load(trained.adapter, only=rf"(^|\.){other}\.")
    layers = {(n.replace(".", "_") if flat else n): d for n, d in adapter.items()}
    table = kronq.match_table(kronq.Adapter(layers), trained.folder / f"{half}.onnx")
    assert {row.how for row in table.rows} == {"missing"}
    self_attention = {
        n: d for n, d in layers.items() if "EncDec" not in n and "encoder_attn" not in n
    }
    table = kronq.match_table(kronq.Adapter(self_attention), trained.folder / f"{half}.onnx")
    assert {row.how for row in table.rows} == {"missing"}


def test_the_command_says_what_is_left_out(trained: Trained, kronq_cli, tmp_path: Path) -> None:
    base = trained.folder / "decoder.onnx"
    asked = ("export", trained.adapter, "--base", base, "-o", tmp_path / "out", "--form", "branch")
    assert "--only takes the adapter's part" in kronq_cli.refuses(*asked)
    done = kronq_cli(*asked, "--only", "decoder")
    assert done.code == 0
    whole = len(kronq.load(trained.adapter))
    assert f"--only leaves out {whole // 3} of {whole} layers" in done.err
    assert "encoder." in done.err
    assert "--only leaves" not in kronq_cli(*asked, "--only", "decoder", "--force", "-q").err
    refused = kronq_cli.refuses(*asked, "--only", "no such", "--force")
    assert 'no layer has such a name; found "no such"; expected a regular expression' in refused


def test_parts_go_through_every_verb(trained: Trained, kronq_cli, tmp_path: Path) -> None:
    packed = tmp_path / "part.safetensors"
    only = ("--only", "decoder")
    assert kronq_cli("quantize", trained.adapter, "-o", packed, "--bits", 4, *only).code == 0
    part = kronq.load(packed)
    assert part.keys() == kronq.load(trained.adapter, only="decoder").keys()
    for to in ("peft", "lora"):
        out = tmp_path / to
        assert kronq_cli("convert", trained.adapter, "--to", to, "-o", out, *only).code == 0
        assert kronq.load(out).keys() == part.keys()
    inspected = kronq_cli("inspect", packed, "--only", r"(block|layers)\.0\.", "--json").json()
    assert inspected["layers"] == len(part) // 2
    assert kronq_cli("compare", trained.adapter, *only).code == 0


@pytest.mark.parametrize("bad", ["(", "a" * 100_000])
def test_what_is_no_expression(trained: Trained, bad: str) -> None:
    with pytest.raises(ArgumentError, match="only: not a regular expression"):
        kronq.load(trained.adapter, only=bad)


def test_no_part_is_written_as_a_whole(trained: Trained) -> None:
    part = kronq.load(trained.adapter, only="encoder")
    assert part.origin.file_bytes == sum(delta.nbytes for delta in part.values())
    assert json.loads((trained.adapter / "adapter_config.json").read_text())["r"] == 4
