"""A pipeline's folder beside diffusers with LyCORIS's full preset on it, convolutions and all."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("lycoris")
pytest.importorskip("transformers")

from lycoris import LycorisNetwork, create_lycoris  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import kronq  # noqa: E402
from kronq.cli.export import command  # noqa: E402
from kronq.errors import (  # noqa: E402
    FormatError,
    MismatchError,
    OutputExistsError,
    UnsupportedError,
)
from kronq.onnx.base_prints import read_prints  # noqa: E402
from kronq.onnx.pipeline.parts import split_adapter  # noqa: E402
from kronq.onnx.slots.slot_inputs import slot_inputs  # noqa: E402
from kronq.onnx.slots.slot_spec import SlotSpec  # noqa: E402
from tests.onnx.images import pipelines  # noqa: E402
from tests.onnx.images.test_convolutions import apart  # noqa: E402

EXACT = 3e-6


@pytest.fixture(scope="module")
def pipeline() -> pipelines.Pipeline:
    return pipelines.make_pipeline()


@pytest.fixture(scope="module")
def base(pipeline: pipelines.Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.write_pipeline(pipeline, tmp_path_factory.mktemp("pipeline") / "base")


def train(
    pipeline: pipelines.Pipeline, file: Path, algorithm: str = "lokr", *, norms: bool = False
) -> tuple[Path, np.ndarray]:
    """A file as kohya's scripts write it with LyCORIS, and what the pipeline says with it."""
    own = copy.deepcopy(pipeline)
    kept = {key: value for key, value in vars(LycorisNetwork).items() if key.isupper()}
    encoder = ["CLIPEncoderLayer"] if norms else ["CLIPAttention", "CLIPMLP"]
    places = {
        "lora_unet": (own.unet, [*pipelines.PRESET], ["conv_in", "conv_out"]),
        "lora_te": (own.text_encoder, encoder, []),
    }
    tensors = {}
    torch.manual_seed(5)
    try:
        for prefix, (model, modules, names) in places.items():
            LycorisNetwork.LORA_PREFIX = prefix
            LycorisNetwork.apply_preset(
                {"enable_conv": True, "target_module": modules, "target_name": names}
            )
            sizes = {"linear_dim": 3, "conv_dim": 3, "linear_alpha": 2, "factor": 4}
            network = create_lycoris(model, 1.0, algo=algorithm, train_norm=norms, **sizes)
            for module in network.loras:
                for key, parameter in module.named_parameters():
                    if key.startswith(("lokr", "lora", "hada", "w_norm", "b_norm")):
                        torch.nn.init.normal_(parameter, std=0.2)
            network.apply_to()
            tensors |= {k: v.detach().clone() for k, v in network.eval().state_dict().items()}
    finally:
        for key, value in kept.items():
            setattr(LycorisNetwork, key, value)
    save_file(tensors, file)
    return file, own.run()


@pytest.mark.parametrize(
    "form", ["branch", *(pytest.param(f, marks=pytest.mark.slow) for f in ("merged", "slots"))]
)
@pytest.mark.parametrize("algorithm", ["lokr", pytest.param("locon", marks=pytest.mark.slow)])
def test_the_picture_is_that_of_diffusers(
    tmp_path: Path, pipeline: pipelines.Pipeline, base: Path, algorithm: str, form: str
) -> None:
    file, wanted = train(pipeline, tmp_path / "adapter.safetensors", algorithm)
    adapter = kronq.load(file)

    report = kronq.export_pipeline(adapter, base, tmp_path / "out", form, verify=form == "branch")

    more = {}
    if form == "slots":
        assert apart(pipelines.run_folder(tmp_path / "out"), pipeline.run()) < EXACT
        for part in split_adapter(adapter, ["unet", "text_encoder"]):
            spec = SlotSpec.read(tmp_path / "out" / part.name)
            more[part.name] = slot_inputs(part.adapter, spec)
    found = pipelines.run_folder(tmp_path / "out", more)
    assert apart(found, wanted) < EXACT < 1e-2 < apart(pipeline.run(), wanted)
    assert sum(len(part.layers) for part in report.parts.values()) == len(adapter)
    assert all(part.matched == {"name": len(part.layers)} for part in report.parts.values())
    assert {*report.parts} == {"unet", "text_encoder"}


def test_norms_of_both_models_are_merged(
    tmp_path: Path, pipeline: pipelines.Pipeline, base: Path
) -> None:
    file, wanted = train(pipeline, tmp_path / "adapter.safetensors", norms=True)
    adapter = kronq.load(file)
    assert len(adapter.carried) > 40
    report = kronq.export_pipeline(adapter, base, tmp_path / "out", "merged", verify=False)
    assert apart(pipelines.run_folder(tmp_path / "out"), wanted) < EXACT
    put = {part: len(each.trained_parts) for part, each in report.parts.items()}
    assert sum(put.values()) == len(adapter.carried)
    assert min(put.values()) > 0
    with pytest.raises(UnsupportedError, match="biases and norms"):
        kronq.export_pipeline(adapter, base, tmp_path / "branch", "branch")


def test_a_text_encoder_alone_leaves_the_unet_as_it_is(
    tmp_path: Path, pipeline: pipelines.Pipeline, base: Path
) -> None:
    file, _ = train(pipeline, tmp_path / "adapter.safetensors")
    words = kronq.load(file, only="^te")
    report = kronq.export_pipeline(words, base, tmp_path / "out", verify=False)
    assert {*report.parts} == {"text_encoder"}
    for kept in ("unet/model.onnx", "unet/config.json", "model_index.json"):
        assert (tmp_path / "out" / kept).read_bytes() == (base / kept).read_bytes()
    assert (tmp_path / "out" / "text_encoder" / "config.json").is_file()
    with pytest.raises(OutputExistsError):
        kronq.export_pipeline(words, base, tmp_path / "out")
    kronq.export_pipeline(words, base, tmp_path / "out", verify=False, force=True)


def test_parts_by_the_fronts_of_names(pipeline: pipelines.Pipeline, tmp_path: Path) -> None:
    file, _ = train(pipeline, tmp_path / "adapter.safetensors")
    delta = next(iter(kronq.load(file).values()))
    places = {
        "text_encoder": "text_model.encoder.layers.0.mlp.fc1",
        "text_encoder_2": "text_model.encoder.layers.0.mlp.fc2",
    }
    fronts = {
        "text_encoder": ("te.", "te1.", "text_encoder.", "text_encoders.clip_l.transformer."),
        "text_encoder_2": ("te2.", "text_encoder_2.", "text_encoders.clip_g.transformer."),
    }
    for part, some in fronts.items():
        for front in some:
            layers = {"conv_in": delta, front + places[part]: delta}
            found = split_adapter(kronq.Adapter(layers), ["text_encoder", "text_encoder_2", "unet"])
            assert {p.name: [*p.adapter] for p in found} == {
                part: [places[part]],
                "unet": ["conv_in"],
            }
    both = kronq.Adapter({"te.x": delta, "te1.x": delta})
    with pytest.raises(FormatError, match="two layers are one"):
        split_adapter(both, ["text_encoder", "unet"])
    with pytest.raises(MismatchError, match="a model that the pipeline has not") as error:
        split_adapter(kronq.Adapter({"te2.x": delta}), ["text_encoder", "unet"])
    assert "te2.x" in str(error.value)


def test_the_command(tmp_path: Path, pipeline: pipelines.Pipeline, base: Path) -> None:
    file, _ = train(pipeline, tmp_path / "adapter.safetensors")
    dry = CliRunner().invoke(command, [str(file), "--base", str(base), "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    tables = json.loads(dry.stdout)
    assert {row["how"] for table in tables.values() for row in table["rows"]} == {"name"}
    out = tmp_path / "out"
    options = ["--base", str(base), "-o", str(out), "--no-verify"]
    done = CliRunner().invoke(command, [str(file), *options])
    assert done.exit_code == 0, done.output
    assert "text_encoder" in done.output
    assert (out / "unet" / "model.onnx").is_file()
    with pytest.raises(FormatError, match="several models"):
        kronq.export_onnx(kronq.load(file), base, tmp_path / "no")


def test_an_adapter_in_the_slots_of_an_opened_pipeline(
    tmp_path: Path, pipeline: pipelines.Pipeline, base: Path
) -> None:
    """Models with a session each, as optimum-onnx has them."""
    file, wanted = train(pipeline, tmp_path / "adapter.safetensors")
    out = tmp_path / "out"
    kronq.export_pipeline(kronq.load(file), base, out, "slots", verify=False)
    opened = SimpleNamespace(
        **{
            part: SimpleNamespace(
                session=ort.InferenceSession(out / part / "model.onnx"), use_io_binding=False
            )
            for part in ("unet", "text_encoder")
        }
    )

    def picture() -> np.ndarray:
        words = opened.text_encoder.session.run(None, {"input_ids": pipelines.TOKENS})[0]
        feeds = {"sample": pipelines.sample().numpy(), "timestep": np.array(7)}
        return opened.unet.session.run(None, feeds | {"encoder_hidden_states": words})[0]

    plain = picture()
    kronq.adapt_pipeline(opened, file)
    assert apart(picture(), wanted) < EXACT
    kronq.adapt_pipeline(opened, kronq.load(file))
    assert apart(picture(), wanted) < EXACT
    with pytest.raises(UnsupportedError, match="binds its inputs"):
        opened.unet.session.run_with_iobinding(None)
    kronq.adapt_pipeline(opened, None)
    assert np.array_equal(picture(), plain)
    opened.unet.use_io_binding = True
    with pytest.raises(UnsupportedError, match="use_io_binding=False"):
        kronq.adapt_pipeline(opened, file)
    assert np.array_equal(picture(), plain)


def test_an_opened_pipeline_refuses_an_adapter_of_another_base(
    tmp_path: Path, pipeline: pipelines.Pipeline, base: Path
) -> None:
    """Its fingerprint is of the weights of one model; that of several is not compared."""
    file, _ = train(pipeline, tmp_path / "adapter.safetensors")
    out, whole = tmp_path / "out", kronq.load(file)
    kronq.export_pipeline(whole, base, out, "slots", verify=False)
    opened = SimpleNamespace(
        unet=SimpleNamespace(
            session=ort.InferenceSession(out / "unet" / "model.onnx"), use_io_binding=False
        )
    )
    adapter = split_adapter(whole, ["unet", "text_encoder"])[0].adapter
    found = read_prints(out / "unet").join(adapter)
    assert found is not None
    kronq.adapt_pipeline(opened, replace(adapter, base=found))
    other = replace(adapter, base=replace(found, digest="0" * 24, sketch="f" * 24))
    with pytest.raises(MismatchError, match="another base"):
        kronq.adapt_pipeline(opened, other)
    kronq.adapt_pipeline(opened, other, other_base=True)
