"""An adapter that was calibrated with a base is refused by another base of the same shapes."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

import kronq
from kronq.errors import MismatchError
from kronq.model.base_fingerprint import MOST_SIGNS, SIGNS, BaseFingerprint
from kronq.onnx.matched_base import match_base
from tests import adapters
from tests.cli.command import Kronq
from tests.engine.pool_app import has_operator
from tests.tiny_llama import LLAMA

SHAPES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "mlp.down_proj": (64, 96)}


@pytest.fixture(scope="module")
def adapter() -> kronq.Adapter:
    rng = np.random.default_rng(0)
    layers = {
        f"model.layers.{i}.{name}": adapters.lora(rng, *shape, 4)
        for i in range(2)
        for name, shape in SHAPES.items()
    }
    return kronq.Adapter(layers)


@pytest.fixture
def kronq_cli(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


def fingerprint(adapter: kronq.Adapter, base: Path) -> BaseFingerprint:
    found = match_base(adapter, base).fingerprint
    assert found is not None
    return found


def changed(base: Path, out: Path, noise: float) -> Path:
    """Copies a base, with noise of this relative size in every weight; 1 and above: another one."""
    shutil.copytree(base, out)
    model = onnx.load(out / "model.onnx")
    rng = np.random.default_rng(3)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 2 and values.dtype == np.float32:
            own = 0.0 if noise >= 1 else 1.0
            made = own * values + noise * values.std() * rng.normal(size=values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(made.astype("f"), tensor.name))
    for file in out.glob("model.onnx*"):
        file.unlink()
    onnx.save_model(
        model, out / "model.onnx", save_as_external_data=True, location="model.onnx.data"
    )
    return out


@pytest.fixture(scope="module")
def another(llama_bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return changed(llama_bases / "fp32", tmp_path_factory.mktemp("another") / "base", 1.0)


def test_one_model_is_recognized_however_it_is_stored(
    llama_bases: Path, adapter: kronq.Adapter
) -> None:
    """As onnxruntime-genai's builder stores it: floats have one digest, codes most of the signs."""
    found = {name: fingerprint(adapter, llama_bases / name) for name in LLAMA}
    for name, each in found.items():
        assert each.rounded == name.startswith("int4")
        same = each.digest == found["fp32"].digest
        assert same != each.rounded, name
        assert each.signs_apart(found["fp32"]) <= (MOST_SIGNS / 2 if each.rounded else 0)


def test_the_digest_is_of_the_weights_that_were_trained(
    tiny_hf: Path, llama_bases: Path, adapter: kronq.Adapter
) -> None:
    """By the recipe of docs, from the checkpoint itself."""
    weights = load_file(tiny_hf / "model.safetensors")
    joint = hashlib.sha256()
    for name in sorted(adapter):
        weight = weights[f"{name}.weight"]
        rows, cols = np.arange(8) * weight.shape[0] // 8, np.arange(weight.shape[1])
        half = weight[rows][:, cols].astype(np.float16)
        half[np.abs(half) < 2.0**-14] = 0
        one = hashlib.sha256(f"({weight.shape[0]}, {weight.shape[1]})".encode() + half.tobytes())
        joint.update(one.digest()[:12])
    assert fingerprint(adapter, llama_bases / "fp16 fused").digest == joint.hexdigest()[:24]


@pytest.mark.parametrize("stored", ["fp32", "int4"])
def test_another_model_is_refused(
    llama_bases: Path, another: Path, adapter: kronq.Adapter, tmp_path: Path, stored: str
) -> None:
    """Calibrated with floats or codes; in every form of export, and not if that is asked for."""
    known = replace(adapter, base=fingerprint(adapter, llama_bases / stored))
    apart = known.base.signs_apart(fingerprint(adapter, another))
    assert SIGNS / 3 < apart < SIGNS * 2 / 3
    for form in ("slots", "branch", "merged"):
        with pytest.raises(MismatchError, match="another base of the same shapes") as error:
            kronq.export_onnx(known, another, tmp_path / "out", form)
        assert f"{apart} of {SIGNS} signs apart: another model" in str(error.value)
        assert "other_base=True goes on" in str(error.value)
    kronq.export_onnx(replace(known, base=None), another, tmp_path / "out", "branch", verify=False)
    kronq.export_onnx(known, llama_bases / "int4", tmp_path / "own", "branch", verify=False)


def test_a_fine_tuned_base_is_refused_where_both_are_floats(
    llama_bases: Path, adapter: kronq.Adapter, tmp_path: Path
) -> None:
    """One per cent of change, which no sketch of rounded weights could tell."""
    known = replace(adapter, base=fingerprint(adapter, llama_bases / "fp16"))
    tuned = changed(llama_bases / "fp32", tmp_path / "tuned", 0.01)
    with pytest.raises(MismatchError, match="fine-tuned, merged or rounded"):
        match_base(known, tuned)
    rounded = replace(adapter, base=fingerprint(adapter, llama_bases / "int4"))
    match_base(rounded, tuned)  # as documented: codes tell another model, not a fine-tuned one


def test_calibration_tells_the_base_and_files_keep_it(
    llama_bases: Path, another: Path, adapter: kronq.Adapter, tmp_path: Path
) -> None:
    data = tmp_path / "text.txt"
    data.write_text("abc def ghi " * 30)
    moments = kronq.calibrate(adapter, llama_bases / "fp32", data, cache=tmp_path / "cache")
    assert moments.base == fingerprint(adapter, llama_bases / "fp32")
    quantized = kronq.quantize(adapter, bits=4, second_moments=moments)
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    read = kronq.load(path)
    assert read.base == moments.base
    assert kronq.pack(read) == path.read_bytes()
    with pytest.raises(MismatchError, match="another base"):
        kronq.calibrate(read, another, data, cache=tmp_path / "cache")
    assert kronq.load(path, other_base=True).base is None
    part = kronq.load(path, only="q_proj")
    assert kronq.load(kronq.save(part, tmp_path / "part.safetensors")).base is None
    match_base(part, another)  # a fingerprint is of all layers


def test_torch_has_the_fingerprint_of_the_exported_base(
    tiny_hf: Path, llama_bases: Path, adapter: kronq.Adapter, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    data = tmp_path / "x.jsonl"
    data.write_text('{"prompt": "abc", "answer": "def"}\n' * 8)
    settings = {"cache": tmp_path / "cache", "device": "cpu"}
    moments = kronq.calibrate_two_sided(adapter, tiny_hf, data, **settings)
    assert moments.base == fingerprint(adapter, llama_bases / "fp16")
    wrong = replace(adapter, base=replace(moments.base, digest="0" * 24))
    with pytest.raises(MismatchError, match="another base"):
        kronq.calibrate_two_sided(wrong, tiny_hf, data, **settings)


def test_a_running_model_refuses_adapters_of_another_base(
    llama_bases: Path, another: Path, adapter: kronq.Adapter, tmp_path: Path
) -> None:
    """Slots tell their weights; a file, a sum and an adapter in memory are compared with them."""
    pytest.importorskip("onnxruntime_genai")
    for name, base in (("own", llama_bases / "fp32"), ("other", another)):
        kronq.export_onnx(adapter, base, tmp_path / name, kronq.Slots(compiled=False), verify=False)
    known = replace(adapter, base=fingerprint(adapter, llama_bases / "int4"))
    path = kronq.save(known, tmp_path / "a.safetensors")
    kronq.Session(tmp_path / "own").load("a", path)
    session = kronq.Session(tmp_path / "other")
    for source in (path, known, {path: 0.5}):
        with pytest.raises(MismatchError, match=r"kronq_base\.json: another base"):
            session.load("a", source)
    session.load("a", path, other_base=True)
    with pytest.raises(MismatchError, match="another base"):
        kronq.Session(tmp_path / "other").load("a", path)
    with pytest.raises(MismatchError, match="another base"):
        kronq.write_onnx_adapter(known, tmp_path / "other", tmp_path / "a.onnx_adapter")


def test_a_pool_refuses_adapters_of_another_base(
    llama_bases: Path, another: Path, adapter: kronq.Adapter, tmp_path: Path, kronq_cli: Kronq
) -> None:
    """When they are added for a model, and when a model takes them from a pool."""
    pytest.importorskip("onnxruntime_genai")
    if not has_operator():
        pytest.skip("needs a C compiler")
    for name, base in (("own", llama_bases / "fp32"), ("other", another)):
        kronq.export_onnx(adapter, base, tmp_path / name, "pool", verify=False)
    known = replace(adapter, base=fingerprint(adapter, llama_bases / "int4"))
    path = str(kronq.save(known, tmp_path / "a.safetensors"))
    pool, meant = str(tmp_path / "pool"), str(tmp_path / "other")
    add = ("pool", "add", str(tmp_path / "refused"), path, "--model", meant)
    refused = kronq_cli(*add)
    assert (refused.code, "another base of the same shapes" in refused.err) == (2, True)
    assert "--other-base" in refused.err
    assert kronq_cli(*add, "--other-base").code == 0
    assert kronq_cli("pool", "add", pool, path, "--model", str(tmp_path / "own")).code == 0
    assert kronq.Engine(tmp_path / "own", pool=pool).generate(["abc"], adapters=["a"], max_tokens=2)
    engine = kronq.Engine(meant, pool=pool)
    for _ in range(2):
        with pytest.raises(MismatchError, match=r"kronq_base\.json: another base"):
            engine.submit("abc", adapter="a")
    kronq.Engine(meant, pool=pool, other_base=True).submit("abc", adapter="a")
    bench = ("bench", meant, "--rounds", "1", "--prompt-tokens", "2", "--new-tokens", "2")
    for given in (("--pool", pool, "--rows", "1"), ("--adapter", path)):
        found = kronq_cli(*bench, *given)
        assert (found.code, "another base of the same shapes" in found.err) == (2, True)
    assert kronq_cli(*bench, "--pool", pool, "--rows", "1", "--other-base").code == 0
