"""One graph with slots for convolutions, filled with adapters of every shape, and with none."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lycoris")

import kronq  # noqa: E402
from kronq.errors import MismatchError, UnsupportedError  # noqa: E402
from kronq.model.adapter import Adapter  # noqa: E402
from kronq.onnx.forms import Slots  # noqa: E402
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec  # noqa: E402
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter  # noqa: E402
from tests.onnx.images import layers  # noqa: E402
from tests.onnx.images.test_convolutions import EXACT, apart, run  # noqa: E402

MODEL = torch.nn.Sequential(
    torch.nn.Conv2d(16, 24, 3, padding=1),
    torch.nn.SiLU(),
    torch.nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=4),
)
X = layers.layer_input(MODEL[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slots that were opened for a LoKr of another shape."""
    out = tmp_path_factory.mktemp("slots")
    base = layers.export(MODEL, X, out / "base.onnx")
    adapter = adapted("lokr", factor=2)[0]
    kronq.export_onnx(adapter, base, out / "slots", form="slots")
    return out / "slots"


def adapted(family: str, **settings: int) -> tuple[Adapter, np.ndarray]:
    """An adapter, and what the model says with LyCORIS's modules on it."""
    model = copy.deepcopy(MODEL)
    modules = {i: layers.adapted(model[i], family, **settings) for i in (0, 2)}
    adapter = Adapter({str(i): layers.delta_of(m, model[i]) for i, m in modules.items()})
    for module in modules.values():
        module.apply_to()
    with torch.no_grad():
        return adapter, model(X).numpy()


@pytest.mark.parametrize("settings", [{"lora_dim": 1}, {"lora_dim": 4}])
@pytest.mark.parametrize("family", layers.FAMILIES)
def test_every_adapter_fills_one_graph(
    tmp_path: Path, folder: Path, family: str, settings: dict[str, int]
) -> None:
    adapter, wanted = adapted(family, **settings)
    file = write_onnx_adapter(adapter, folder, tmp_path / "own.onnx_adapter")
    loaded = ort.LoraAdapter()
    loaded.Load(str(file))
    options = ort.RunOptions()
    options.add_active_adapter(loaded)
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": X.numpy()}, options)[0]
    assert apart(found, wanted) < EXACT
    with torch.no_grad():
        assert apart(run(folder / "model.onnx", X.numpy()), MODEL(X).numpy()) < EXACT


def test_the_description_says_that_there_are_convolutions(folder: Path) -> None:
    spec = SlotSpec.read(folder)
    assert spec.version == 2
    assert spec.kernels == {"0": (3, 3), "2": (3, 3)}
    assert spec.layers["2"] == (24, 6 * 9)
    damaged = (folder / SPEC).read_text().replace("3,\n", "5,\n")
    with pytest.raises(ValueError, match="whole channels"):
        SlotSpec.model_validate_json(damaged)


def test_other_kernels_and_the_compiled_operator_are_refused(tmp_path: Path, folder: Path) -> None:
    other, _ = layers.one_layer(torch.nn.Conv2d(16, 24, (1, 9)), "lokr")
    with pytest.raises(MismatchError, match="another kernel"):
        write_onnx_adapter(other, folder, tmp_path / "x.onnx_adapter")
    base = layers.export(MODEL, X, tmp_path / "base.onnx")
    with pytest.raises(UnsupportedError, match="takes no convolutions"):
        kronq.export_onnx(adapted("lokr")[0], base, tmp_path / "out", Slots(compiled=True))
