"""R alone: the file, its bases from everywhere, and every base that is not its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import kronq
from kronq.cores.randomized_svd import singular_bases
from kronq.model.frozen_bases import BasisRecipe
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.readers.basis import extract_with_moments
from tests.cores.adapters import (
    sklearn_pairs,
    total_error,
    write_base,
    write_lora_xs,
)
from tests.cores.weights import RANK, base_weights


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lora_xs(tmp_path / "xs")
    return tmp_path / "xs"


def deltas(adapter: kronq.Adapter) -> dict[str, np.ndarray]:
    return {layer: delta.dense() for layer, delta in adapter.items()}


def random_pairs(layers: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's bases, but for some layers random ones (replacement_module_random_init)."""
    pairs, draws = sklearn_pairs(), np.random.RandomState(3)
    for layer in layers:
        shapes = [m.shape for m in pairs[layer]]
        pairs[layer] = tuple(draws.normal(size=s).astype(np.float32) for s in shapes)
    return pairs


@pytest.mark.parametrize("config", [kronq.Native(bits=4), kronq.Compact(size=1100)])
@pytest.mark.parametrize("shards", [1, 3])
def test_error_told_is_that_of_delta(tmp_path: Path, config, shards: int) -> None:
    wanted = write_lora_xs(tmp_path / "xs")
    base = write_base(tmp_path / "base", shards=shards)
    cores = kronq.extract_cores(kronq.load(tmp_path / "xs"), base)
    assert cores.parameters == RANK**2 * len(wanted)
    file = kronq.save(kronq.quantize(cores, config), tmp_path / "small.safetensors")
    found = kronq.load(file, basis=base)
    assert found.bases is None
    told = found.recipe.relative_error
    assert total_error(deltas(found), wanted) == pytest.approx(told, rel=1e-4)
    report = kronq.measure(cores, kronq.load(file))
    by_delta = kronq.measure(kronq.load(tmp_path / "xs"), found)
    assert report.total.relative_error == pytest.approx(by_delta.total.relative_error, rel=1e-4)
    assert report.total.spectral_error == pytest.approx(by_delta.total.spectral_error, rel=1e-4)


def test_bytes_of_a_7b_model_at_rank_16(tmp_path: Path) -> None:
    """32 blocks of seven layers; R, the recipe and the digests do not grow with the widths."""
    draws = np.random.RandomState(0)
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    names = [*attention, *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))]
    layers = [f"model.layers.{block}.{name}" for block in range(32) for name in names]
    weights = {name: draws.normal(size=(20, 24)).astype(np.float32) for name in layers}
    pairs = {}
    for name, weight in weights.items():
        up, down = singular_bases(weight, 16, BasisRecipe())
        pairs[name] = up.astype(np.float32), down.astype(np.float32)
    write_lora_xs(tmp_path / "xs", pairs)
    base = write_base(tmp_path / "base", weights)
    cores = kronq.extract_cores(kronq.load(tmp_path / "xs"), base)
    assert len(cores) == 224
    assert cores.parameters == 224 * 16**2
    for bpw, most in ((4, 29_000), (1, 7_200)):
        quantized = kronq.quantize(cores, kronq.Compact(bpw=bpw))
        assert kronq.save(quantized, tmp_path / f"{bpw}.safetensors").stat().st_size <= most


def test_all_sources_of_bases_give_the_same_file(tmp_path: Path, base: Path, folder: Path) -> None:
    adapter = kronq.load(folder)
    whole = kronq.write_basis(base, tmp_path / "whole.safetensors", rank=RANK)
    its_own = kronq.write_basis(base, tmp_path / "its.safetensors", adapter=adapter)
    assert whole.read_bytes() == its_own.read_bytes()
    files = []
    for source in (base, whole):
        cores = kronq.quantize(kronq.extract_cores(adapter, source), bits=4)
        files.append(kronq.save(cores, tmp_path / f"{len(files)}.safetensors"))
    assert files[0].read_bytes() == files[1].read_bytes()
    again = kronq.write_basis(base, tmp_path / "again.safetensors", adapter=kronq.load(files[0]))
    assert again.read_bytes() == whole.read_bytes()
    found = [deltas(kronq.load(files[0], basis=source)) for source in (base, whole)]
    assert total_error(found[0], found[1]) < 1e-6


def test_bases_taken_from_an_adapter(tmp_path: Path) -> None:
    pairs = random_pairs([*base_weights()])
    wanted = write_lora_xs(tmp_path / "xs", pairs)
    write_lora_xs(tmp_path / "other", pairs, seed=1)
    write_lora_xs(tmp_path / "foreign", seed=1)
    basis = kronq.write_basis(tmp_path / "xs", tmp_path / "basis.safetensors")
    cores = kronq.extract_cores(kronq.load(tmp_path / "xs"), basis)
    file = kronq.save(cores, tmp_path / "cores.safetensors")
    for source in (basis, tmp_path / "xs", tmp_path / "other"):
        assert total_error(deltas(kronq.load(file, basis=source)), wanted) < 1e-6
    with pytest.raises(kronq.MismatchError, match="the bases are not those"):
        kronq.load(file, basis=tmp_path / "foreign")
    with pytest.raises(kronq.MismatchError, match="taken from a LoRA-XS adapter"):
        kronq.load(file, basis=write_base(tmp_path / "base"))


def test_bases_that_cannot_be_made_again_stay(tmp_path: Path, base: Path) -> None:
    kept = "model.layers.0.mlp.up_proj"
    wanted = write_lora_xs(tmp_path / "xs", random_pairs([kept]))
    with pytest.warns(kronq.KronqWarning, match=f"1 layers keep bases of their own.*{kept}"):
        cores = kronq.extract_cores(kronq.load(tmp_path / "xs"), base)
    assert [*cores.bases.layers] == [name for name in cores if name != kept]
    file = kronq.save(cores, tmp_path / "cores.safetensors")
    assert total_error(deltas(kronq.load(file, basis=base)), wanted) < 1e-4


def test_no_bases_can_be_made_again(tmp_path: Path, base: Path) -> None:
    write_lora_xs(tmp_path / "xs", random_pairs([*base_weights()]))
    with pytest.raises(kronq.MismatchError, match=r"frozen bases are not these.*kronq basis"):
        kronq.extract_cores(kronq.load(tmp_path / "xs"), base)


def cores_file(tmp_path: Path, base: Path, folder: Path) -> Path:
    cores = kronq.extract_cores(kronq.load(folder), base)
    return kronq.save(kronq.quantize(cores, bits=4), tmp_path / "cores.safetensors")


def changed_bases(folder: Path) -> dict[str, tuple[Path, str]]:
    """Bases that are not the adapter's, and what is said of each."""
    weights, layer = base_weights(), "model.layers.0.mlp.down_proj"
    tuned = weights | {layer: weights[layer] + np.eye(128, 192, dtype=np.float32) * 1e-6}
    halves = {n: w.astype(ml_dtypes.bfloat16) for n, w in weights.items()}
    codes = {n: (w * 100).astype(np.int8) for n, w in weights.items()}
    fewer = {n: w[:16] for n, w in weights.items()}
    found = {
        "tuned": (write_base(folder / "tuned", tuned), rf"{layer}: the weights are not those"),
        "bf16": (write_base(folder / "bf16", halves), "the weights are not those"),
        "int8": (write_base(folder / "int8", codes), r"no floating-point matrix.*I8"),
        "config": (write_base(folder / "config"), "quantized.*quantization_config"),
        "lacking": (write_base(folder / "lacking", {"h.0.attn": weights[layer]}), "no such layer"),
        "smaller": (write_base(folder / "smaller", fewer), "another shape"),
    }
    config = {"architectures": ["X"], "quantization_config": {"bits": 4}}
    (found["config"][0] / "config.json").write_text(json.dumps(config))
    return found


@pytest.mark.parametrize("kind", ["tuned", "bf16", "int8", "config", "lacking", "smaller"])
def test_another_base_is_refused(tmp_path: Path, base: Path, folder: Path, kind: str) -> None:
    file = cores_file(tmp_path, base, folder)
    other, message = changed_bases(tmp_path / "bases")[kind]
    with pytest.raises(kronq.MismatchError, match=message):
        kronq.load(file, basis=other)


def test_a_base_saved_in_another_dtype_of_the_same_values(tmp_path: Path) -> None:
    halves = {n: w.astype(np.float16) for n, w in base_weights().items()}
    narrow = write_base(tmp_path / "narrow", halves)
    wide = write_base(tmp_path / "wide", {n: w.astype(np.float32) for n, w in halves.items()})
    basis = [
        kronq.write_basis(b, tmp_path / f"{b.name}.safetensors", rank=4) for b in (narrow, wide)
    ]
    assert basis[0].read_bytes() == basis[1].read_bytes()


def test_a_damaged_basis_file_is_refused(tmp_path: Path, base: Path, folder: Path) -> None:
    basis = kronq.write_basis(base, tmp_path / "basis.safetensors", rank=RANK)
    file = cores_file(tmp_path, basis, folder)
    data = bytearray(basis.read_bytes())
    data[-3] ^= 1
    basis.write_bytes(data)
    with pytest.raises(kronq.FormatError, match="not those that were written"):
        kronq.load(file, basis=basis)


def test_without_bases_whatever_needs_delta_says_so(
    tmp_path: Path, base: Path, folder: Path
) -> None:
    cores, whole = kronq.load(cores_file(tmp_path, base, folder)), kronq.load(folder)
    (tmp_path / "base.onnx").touch()
    for act in (
        lambda: kronq.convert(cores, tmp_path / "out", to="peft"),
        lambda: kronq.convert(cores, tmp_path / "out", to="lora"),
        lambda: kronq.measure(whole, cores),
        lambda: kronq.weighted_sum([(cores, 0.5)]),
        lambda: kronq.export_onnx(cores, tmp_path / "base.onnx", tmp_path / "out"),
    ):
        with pytest.raises(kronq.UnsupportedError, match=r"R alone; found 4 of 4.*basis"):
            act()
    assert not (tmp_path / "out").exists()


def test_back_to_lora_xs(tmp_path: Path, base: Path, folder: Path) -> None:
    file = cores_file(tmp_path, base, folder)
    kronq.convert(kronq.load(file), tmp_path / "back", to="lora-xs", basis=base)
    again = kronq.load(tmp_path / "back")
    assert again.origin.system == "LoRA-XS"
    wanted = deltas(kronq.load(file, basis=base))
    assert total_error(deltas(again), wanted) < 1e-6
    assert kronq.extract_cores(again, base).bases is not None  # its bases are the base's own
    settings = json.loads((tmp_path / "back" / "reconstr_config.json").read_text())
    assert settings["svd"] == {"rank": RANK, "n_iter": 10, "random_state": 42}
    with pytest.raises(kronq.ArgumentError, match="for R alone"):
        kronq.convert(again, tmp_path / "no", to="lora-xs", basis=base)
    with pytest.raises(kronq.ArgumentError, match="basis tells where"):
        kronq.convert(kronq.load(file), tmp_path / "no", to="lora-xs")


@pytest.mark.parametrize("two_sided", [False, True])
def test_moments_are_those_of_the_layer(
    tmp_path: Path, base: Path, folder: Path, two_sided: bool
) -> None:
    whole, draws = kronq.load(folder), np.random.RandomState(5)

    def moment(size: int) -> np.ndarray:
        x = draws.normal(size=(size, 2 * size)) * np.linspace(0.1, 3, size)[:, None]
        return (x @ x.T / size).astype(np.float32)

    layers = {}
    for name, delta in whole.items():
        outputs = moment(delta.shape[0]) if two_sided else None
        layers[name] = LayerMoments(moment(delta.shape[1]), outputs)
    moments = SecondMoments(layers, tokens=100)
    cores, projected = extract_with_moments(whole, moments, base)
    quantized = kronq.quantize(cores, kronq.Native(bits=3), second_moments=projected)
    report = kronq.measure(cores, quantized, second_moments=projected).total
    file = kronq.save(quantized, tmp_path / "q.safetensors")
    wanted = kronq.measure(whole, kronq.load(file, basis=base), second_moments=moments).total
    assert report.activation_error == pytest.approx(wanted.activation_error, rel=1e-4)
    plain = kronq.measure(
        cores, kronq.quantize(cores, kronq.Native(bits=3)), second_moments=projected
    )
    assert report.activation_error < plain.total.activation_error
    if two_sided:
        assert report.loss_error == pytest.approx(wanted.loss_error, rel=1e-4)


def test_a_part(tmp_path: Path, base: Path, folder: Path) -> None:
    file = cores_file(tmp_path, base, folder)
    part = kronq.load(file, only="self_attn", basis=base)
    assert [*part] == [n for n in base_weights() if "self_attn" in n]
    alone = kronq.load(file, only="self_attn")
    assert len(alone.bases.layers) == 2
    with pytest.raises(kronq.ArgumentError, match="a part of an adapter"):
        kronq.save(alone, tmp_path / "part.safetensors")


def test_settings_of_the_trainer(tmp_path: Path, base: Path) -> None:
    write_lora_xs(tmp_path / "xs")
    settings = {"r_squared": True, "svd": {"n_iter": 10, "random_state": 7}}
    (tmp_path / "xs" / "reconstr_config.json").write_text(json.dumps(settings))
    with pytest.raises(kronq.MismatchError, match="frozen bases are not these"):
        kronq.extract_cores(kronq.load(tmp_path / "xs"), base)
    settings["svd"] = {"n_iter": "ten"}
    (tmp_path / "xs" / "reconstr_config.json").write_text(json.dumps(settings))
    with pytest.raises(kronq.FormatError, match="bad svd settings"):
        kronq.extract_cores(kronq.load(tmp_path / "xs"), base)


def test_a_file_that_has_no_bases(tmp_path: Path, base: Path, folder: Path) -> None:
    cores = kronq.load(cores_file(tmp_path, base, folder))
    kronq.convert(kronq.load(folder), tmp_path / "plain", to="peft")
    for path in (tmp_path / "plain", tmp_path / "cores.safetensors", tmp_path):
        with pytest.raises(kronq.FormatError, match="frozen bases"):
            kronq.load(tmp_path / "cores.safetensors", basis=path)
    assert replace(cores, bases=None).bases is None
