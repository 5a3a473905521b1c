"""A converted adapter, loaded by PEFT, computes what the original computes."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lycoris import create_lycoris
from numpy.typing import NDArray
from peft.tuners.lokr.layer import factorization as peft_factorization
from safetensors.numpy import load_file, save_file

import kronq
from kronq.errors import KronqError, OutputExistsError, UnsupportedError
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.quantization.mixed.native import native
from kronq.writers.balance import balance_layer
from kronq.writers.convert import convert
from kronq.writers.lokr_layout import factorization, find_factors
from kronq.writers.peft import PeftFolder, to_lora, to_peft
from tests import adapters, tiny
from tests.adapters import difference
from tests.fuzzing import max_examples
from tests.paths import EXAMPLE
from tests.tiny import LINEARS, peft_deltas

PATTERNS: dict[str, Any] = {
    "rank_pattern": {"q_proj": 2, "layers.0.mlp.down_proj": 3},
    "alpha_pattern": {"k_proj": 7, "layers.1.mlp.gate_proj": 1},
}
LOKR: dict[str, dict[str, Any]] = {
    "factor 4": {"r": 4, "decompose_factor": 4},
    "all whole": {"r": 64, "decompose_factor": -1},
    "some whole": {"r": 8, "decompose_factor": 4},  # k and v have 4×16 blocks of w2
    "decompose_both": {"r": 2, "decompose_both": True},
    "patterns": {"r": 4, "decompose_factor": 4, **PATTERNS},
}
LORA: dict[str, dict[str, Any]] = {
    "plain": {"r": 4},
    "rslora": {"r": 4, "use_rslora": True},
    "patterns": {"r": 4, **PATTERNS},
}


def llama() -> Any:
    """Returns a model of two layers with hidden size 64."""
    return tiny.llama(hidden=64, intermediate=96, heads=4)


def through_peft(folder: Path) -> np.ndarray:
    return tiny.logits(peft.PeftModel.from_pretrained(llama(), str(folder)).eval())


def through_weights(adapter: Adapter) -> np.ndarray:
    """Returns the logits of the base with every ΔW added to its weights."""
    model = llama()
    with torch.no_grad():
        for name, delta in adapter.items():
            weight = model.get_submodule(name).weight
            rows, cols = weight.shape
            weight += torch.tensor(delta.dense()[:rows, :cols])
    return tiny.logits(model)


def assert_moved(logits: np.ndarray) -> None:
    """Checks that the adapter changes the logits, so that equal logits prove something."""
    assert difference(logits, tiny.logits(llama())) > 0.05


def lokr(folder: Path, **settings: Any) -> np.ndarray:
    config = peft.LoKrConfig(target_modules=LINEARS, **{"alpha": 3, **settings})
    return tiny.logits(tiny.save_peft(config, folder, base=llama()))


def lora(folder: Path, **settings: Any) -> np.ndarray:
    config = peft.LoraConfig(target_modules=LINEARS, **{"lora_alpha": 3, **settings})
    return tiny.logits(tiny.save_peft(config, folder, base=llama()))


def random_delta(
    a: tuple[int, int] | None, b: tuple[int, int], rank: int | None, **fields: Any
) -> Delta:
    rng = np.random.default_rng(5)

    def matrix(*shape: int) -> Float:
        return Float(rng.normal(size=shape).astype(np.float32) * 0.3)

    left = ONE if a is None else Product(matrix(*a))
    right = Product(matrix(*b)) if rank is None else Product(matrix(b[0], rank), matrix(rank, b[1]))
    delta = Delta(left, right, 1.0, (left.shape[0] * b[0], left.shape[1] * b[1]))
    return Delta(left, right, fields.get("scale", 1.0), fields.get("shape", delta.full_shape))


@pytest.mark.parametrize("to", ["peft", "lora"])
@pytest.mark.parametrize("settings", LOKR.values(), ids=LOKR)
def test_lokr(tmp_path: Path, settings: dict[str, Any], to: str) -> None:
    logits = lokr(tmp_path / "in", **settings)
    assert_moved(logits)
    convert(kronq.load(tmp_path / "in"), tmp_path / "out", to=to)
    assert difference(through_peft(tmp_path / "out"), logits) <= 1e-5


@pytest.mark.parametrize("settings", LOKR.values(), ids=LOKR)
def test_a_lokr_comes_back_as_it_was(tmp_path: Path, settings: dict[str, Any]) -> None:
    """With the same tensors, bit for bit, and the same rank, alpha and factor if they matter."""
    lokr(tmp_path / "in", **settings)
    convert(kronq.load(tmp_path / "in"), tmp_path / "out", to="peft")
    before, after = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("in", "out"))
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    if "r" in settings and settings["r"] != 64:
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert (config["r"], config["alpha"]) == (settings["r"], 3)


@pytest.mark.parametrize("to", ["peft", "lora"])
@pytest.mark.parametrize("settings", LORA.values(), ids=LORA)
def test_lora(tmp_path: Path, settings: dict[str, Any], to: str) -> None:
    logits = lora(tmp_path / "in", **settings)
    assert_moved(logits)
    convert(kronq.load(tmp_path / "in"), tmp_path / "out", to=to)
    assert difference(through_peft(tmp_path / "out"), logits) <= 1e-5
    before, after = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("in", "out"))
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize(
    ("settings", "forms"),
    [
        ({"linear_dim": 4, "factor": 4}, ["peft", "lora"]),
        ({"linear_dim": 4, "factor": -1}, ["peft", "lora"]),
        ({"linear_dim": 2, "factor": -1, "decompose_both": True}, ["peft", "lora"]),
        ({"linear_dim": 4, "factor": 4, "full_matrix": True}, ["peft", "lora"]),
        ({"linear_dim": 4, "factor": 4, "unbalanced_factorization": True}, ["lora"]),
    ],
    ids=str,
)
def test_lycoris(tmp_path: Path, settings: dict[str, Any], forms: list[str]) -> None:
    model, path = llama(), tmp_path / "lycoris.safetensors"
    network = create_lycoris(model, 1.0, algo="lokr", linear_alpha=3, **settings)
    network.apply_to()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    network.save_weights(str(path), torch.float32, {})
    logits = tiny.logits(model)
    assert_moved(logits)
    for form in forms:
        convert(kronq.load(path), tmp_path / form, to=form)
        assert difference(through_peft(tmp_path / form), logits) <= 1e-5


def raw_factors(path: Path, shapes: dict[str, list[int]]) -> Adapter:
    """Returns layers shaped as in the paper: a_in 2, and a_out·b_out above d_out."""
    rng = np.random.default_rng(3)
    tensors = {}
    for name, (rows, cols) in shapes.items():
        b_out = -(-rows // 5)
        tensors[f"{name}.A"] = rng.normal(size=(5, 2)).astype(np.float32)
        tensors[f"{name}.B1"] = rng.normal(size=(b_out, 3), scale=0.2).astype(np.float32)
        tensors[f"{name}.B2"] = rng.normal(size=(3, cols // 2), scale=0.2).astype(np.float32)
    save_file(tensors, path, {"alpha": "6", "shapes": json.dumps(shapes)})
    return kronq.load(path)


SHAPES = {
    "model.layers.0.self_attn.q_proj": [64, 64],
    "model.layers.1.mlp.up_proj": [96, 64],
    "model.layers.1.mlp.down_proj": [64, 96],
}


def test_raw_factors(tmp_path: Path) -> None:
    adapter = raw_factors(tmp_path / "factors.safetensors", SHAPES)
    logits = through_weights(adapter)
    assert_moved(logits)
    convert(adapter, tmp_path / "out", to="lora", base_model="maker/base")
    assert difference(through_peft(tmp_path / "out"), logits) <= 1e-5
    written = kronq.load(tmp_path / "out")
    assert {delta.rank for delta in written.values()} == {2 * 3}
    assert written.origin.base_model == "maker/base"


def test_layers_that_peft_cannot_hold_are_all_named(tmp_path: Path) -> None:
    adapter = raw_factors(tmp_path / "factors.safetensors", SHAPES)
    with pytest.raises(UnsupportedError) as error:
        convert(adapter, tmp_path / "out", to="peft")
    assert all(name in str(error.value) for name in SHAPES)
    assert "model.layers.0.self_attn.q_proj (5×2 ⊗ 13×32 for 64×64)" in str(error.value)
    assert 'hint: to="lora" is' in str(error.value)
    assert not (tmp_path / "out").exists()


def test_only_the_layers_that_do_not_fit_are_named() -> None:
    fits = {f"layers.{i}.q": random_delta((4, 4), (16, 16), 2) for i in range(3)}
    adapter = Adapter(fits | {"layers.3.q": random_delta((16, 4), (4, 16), 2)})
    with pytest.raises(UnsupportedError, match=r"found layers\.3\.q \(16×4 ⊗ 4×16 for 64×64\) "):
        to_peft(adapter)


@pytest.mark.parametrize("to", ["peft", "lora"])
def test_packed(tmp_path: Path, to: str) -> None:
    logits = lokr(tmp_path / "in", **LOKR["patterns"])
    path = kronq.save(kronq.load(tmp_path / "in"), tmp_path / "packed.safetensors")
    convert(kronq.load(path), tmp_path / "out", to=to)
    assert difference(through_peft(tmp_path / "out"), logits) <= 1e-5


@pytest.mark.parametrize("to", ["peft", "lora"])
def test_quantized(tmp_path: Path, to: str) -> None:
    lokr(tmp_path / "in", **LOKR["factor 4"])
    path = tmp_path / "packed.safetensors"
    kronq.save(kronq.quantize(kronq.load(tmp_path / "in"), bits=4), path)
    quantized = kronq.load(path)
    convert(quantized, tmp_path / "out", to=to)
    assert difference(through_peft(tmp_path / "out"), through_weights(quantized)) <= 1e-5


@pytest.mark.parametrize("to", ["peft", "lora"])
def test_native(tmp_path: Path, to: str) -> None:
    """With channels of mixed widths, some without bits."""
    lokr(tmp_path / "in", **LOKR["factor 4"])
    path = kronq.save(native(kronq.load(tmp_path / "in"), 2), tmp_path / "packed.safetensors")
    quantized = kronq.load(path)
    convert(quantized, tmp_path / "out", to=to)
    assert difference(through_peft(tmp_path / "out"), through_weights(quantized)) <= 1e-5


@pytest.mark.parametrize(
    "delta",
    [
        random_delta((4, 4), (16, 16), 12),  # PEFT keeps w2 whole from rank 8 on
        random_delta((4, 4), (16, 16), 2, scale=-0.7),  # a trained LyCORIS scalar can be negative
        random_delta((4, 4), (16, 16), 2, scale=0.0),
        random_delta(None, (64, 64), 3),  # a LoRA layer …
        random_delta((1, 1), (64, 64), None),
    ],
    ids=["high rank", "negative", "zero", "LoRA", "whole"],
)
@pytest.mark.parametrize("to", ["peft", "lora"])
def test_odd_layers(tmp_path: Path, delta: Delta, to: str) -> None:
    adapter = Adapter({"model.layers.0.self_attn.q_proj": delta})
    convert(adapter, tmp_path, to=to, force=True)
    assert difference(through_peft(tmp_path), through_weights(adapter)) <= 1e-5


def test_a_name_that_ends_another_keeps_its_own_scale(tmp_path: Path) -> None:
    """PEFT matches patterns at the end of a path: ``proj`` must not match ``inner.proj``."""
    model = torch.nn.ModuleDict(
        {
            "proj": torch.nn.Linear(6, 6),
            "inner": torch.nn.ModuleDict({"proj": torch.nn.Linear(6, 6)}),
        }
    )
    deltas = {"proj": random_delta(None, (6, 6), 2, scale=3.0), "inner.proj": None}
    deltas["inner.proj"] = random_delta(None, (6, 6), 1, scale=0.5)
    folder = convert(Adapter(deltas), tmp_path / "out", to="lora")
    found = peft_deltas(peft.PeftModel.from_pretrained(model, str(folder)))
    for name, delta in deltas.items():
        assert difference(found[name], delta.dense()) <= 1e-6


def test_the_exact_lora_is_no_larger_than_it_must_be() -> None:
    """Zero singular values of A are dropped; a whole B takes its smaller side."""
    a = np.outer([1, 2, 3, 4], [1, 0, -1]).astype(np.float32)  # rank 1
    b = random_delta(None, (5, 7), 2).b
    whole = random_delta(None, (9, 4), None).b
    layers = {"one": (Product(Float(a)), b, 1 * 2), "whole": (Product(Float(a)), whole, 1 * 4)}
    adapter = Adapter(
        {k: Delta(p, q, 1.0, (4 * q.shape[0], 3 * q.shape[1])) for k, (p, q, _) in layers.items()}
    )
    folder = to_lora(adapter)
    for name, (_, _, rank) in layers.items():
        up, down = up_and_down(folder, name)
        assert up.shape[1] == rank
        scale = folder.config["lora_alpha"] / rank
        assert difference(scale * up @ down, adapter[name].dense()) <= 1e-6


def up_and_down(folder: PeftFolder, layer: str) -> list[NDArray[Any]]:
    """Returns a layer's two matrices."""
    tensors = [folder.tensors[f"base_model.model.{layer}.lora_{x}.weight"] for x in "BA"]
    return [next(iter(each.make())).reshape(each.shape) for each in tensors]  # type: ignore[union-attr]


def test_an_untrained_lokr_converts_to_zeros(tmp_path: Path) -> None:
    config = peft.LoKrConfig(r=4, decompose_factor=4, target_modules=LINEARS)
    tiny.save_peft(config, tmp_path / "in", base=llama(), random=False)
    for to in ("peft", "lora"):
        convert(kronq.load(tmp_path / "in"), tmp_path / to, to=to)
        assert not any(d.dense().any() for d in kronq.load(tmp_path / to).values())


@pytest.mark.parametrize(("dtype", "limit"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_precision(tmp_path: Path, dtype: str, limit: float) -> None:
    logits = lokr(tmp_path / "in", r=4, decompose_factor=4)
    folder = convert(kronq.load(tmp_path / "in"), tmp_path / "out", to="lora", dtype=dtype)
    assert difference(through_peft(folder), logits) <= limit
    adapter = kronq.load(folder)
    assert adapter.nbytes == 2 * adapter.parameters


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    lokr(tmp_path / "in", **LOKR["patterns"])
    adapter = kronq.load(tmp_path / "in")
    for to in ("peft", "lora"):
        one, two = (convert(adapter, tmp_path / f"{to}{i}", to=to) for i in range(2))
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert (one / name).read_bytes() == (two / name).read_bytes()


def test_the_task_type_is_kept_where_it_is_known(tmp_path: Path) -> None:
    lora(tmp_path / "in", r=4, task_type="CAUSAL_LM")
    adapter = kronq.load(tmp_path / "in")
    assert to_peft(adapter).config["task_type"] == "CAUSAL_LM"
    for to in (to_peft, to_lora):
        packed = kronq.save(adapter, tmp_path / "packed.safetensors", force=True)
        assert to(kronq.load(packed)).config["task_type"] == "CAUSAL_LM"


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("transformer.h.0.attn.c_attn", "CAUSAL_LM"),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h", "CAUSAL_LM"),
        ("layers.0.self_attn.q_proj", None),  # a model without a head
        ("model.decoder.layers.0.self_attn.q_proj", None),  # OPT, but BART and Whisper as well
        ("bert.encoder.layer.0.attention.self.query", None),
        ("down_blocks.1.attentions.0.proj_in", None),
    ],
)
def test_the_task_type_of_a_packed_file_is_told_by_its_names(name: str, task: str | None) -> None:
    adapter = Adapter({name: random_delta(None, (6, 6), 2)})
    assert to_peft(adapter).config["task_type"] == task


@pytest.mark.parametrize("to", ["peft", "lora"])
@pytest.mark.parametrize("kind", ["lokr", "lora"])
@pytest.mark.parametrize(
    "config", [kronq.Native(bits=4), kronq.Compact(bpw=12), kronq.Uniform(bits=8)], ids=repr
)
def test_a_quantized_adapter_converts_to_usual_factors(
    tmp_path: Path, config: Any, kind: str, to: str
) -> None:
    """Codes and float16 scales are no factors: alpha was 7e-9 and B2 up to 655,360."""
    make = {"lokr": lokr, "lora": lora}[kind]
    make(tmp_path / "in", r=4, **({"decompose_factor": 4} if kind == "lokr" else {}))
    quantized = kronq.quantize(kronq.load(tmp_path / "in"), config)
    packed = kronq.load(kronq.save(quantized, tmp_path / "packed.safetensors"))
    expected = {name: delta.dense() for name, delta in packed.items()}
    for dtype, limit in (("fp32", 1e-6), ("fp16", 2e-3), ("bf16", 2e-2)):
        folder = convert(packed, tmp_path / dtype, to=to, dtype=dtype)
        settings = json.loads((folder / "adapter_config.json").read_text())
        alpha = settings["alpha" if (kind, to) == ("lokr", "peft") else "lora_alpha"]
        assert (alpha, settings["alpha_pattern"]) == (settings["r"], {})
        largest = [np.abs(t.astype(np.float32)).max() for t in tensors_of(folder).values()]
        assert 0.01 < min(largest) <= max(largest) < 100
        for name, delta in kronq.load(folder).items():
            assert difference(delta.dense(), expected[name]) <= limit


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        f"{name}.{i}": matrix.float32()
        for name, delta in kronq.load(folder).items()
        for i, matrix in enumerate(delta.matrices)
    }


def test_a_model_in_float16_runs_a_converted_quantized_adapter(tmp_path: Path) -> None:
    """Its logits were NaN: vLLM, TGI and PEFT can keep an adapter in the base's dtype."""
    lokr(tmp_path / "in", r=4, decompose_factor=4)
    quantized = kronq.quantize(kronq.load(tmp_path / "in"), bits=4)
    expected = through_weights(quantized)
    for to in ("peft", "lora"):
        folder = convert(quantized, tmp_path / to, to=to)
        model = peft.PeftModel.from_pretrained(
            llama().half(), str(folder), autocast_adapter_dtype=False
        ).eval()
        assert difference(tiny.logits(model), expected) <= 1e-2


@pytest.mark.parametrize("scale", [2.5e-9, -3.0, 0.0, 1.7e8])
def test_balanced_layers_are_the_same(scale: float) -> None:
    """Of every kind, with factors of any size, and with components that are zero."""
    for name, delta in adapters.adapter(layers=1).items():
        matrices = [m.float32() for m in delta.b.matrices]
        matrices[0][:, 1] = 0
        matrices[-1][0] *= 3e5
        odd = Delta(delta.a, Product(*map(Float, matrices)), scale, delta.shape)
        balanced = balance_layer(odd)
        assert (balanced.scale, balanced.shape) == (np.sign(scale), odd.shape), name
        found, expected = adapters.dense(balanced), adapters.dense(odd)
        assert difference(found, expected) <= 3e-7
        sizes = [np.sqrt((m.float32() ** 2).mean()) for m in balanced.matrices]
        assert max(sizes) <= 8 * min(sizes)


def test_layers_of_other_scales_and_ranks_share_one_alpha() -> None:
    """llama.cpp reads lora_alpha and each layer's rank, and vLLM only the config's."""
    layers = {
        "one.proj": random_delta((2, 2), (6, 6), 2, scale=4.0),
        "two.proj": random_delta((2, 2), (6, 6), 2, scale=4.0),
        "three.proj": random_delta((2, 2), (6, 6), 2, scale=-0.5),
        "four.proj": random_delta((2, 2), (6, 6), 3, scale=1.0),
        "zero.proj": random_delta((2, 2), (6, 6), 2, scale=0.0),
    }
    folder = to_lora(Adapter(layers))
    assert (folder.config["r"], folder.config["lora_alpha"]) == (4, 16)
    assert folder.config["alpha_pattern"] == {}
    assert list(folder.config["rank_pattern"].values()) == [6]
    for name, delta in layers.items():
        up, down = up_and_down(folder, name)
        scale = folder.config["lora_alpha"] / down.shape[0]
        assert difference(scale * up @ down, delta.dense()) <= 1e-6


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    adapter = Adapter({"a": random_delta(None, (6, 6), 2)})
    out = tmp_path / "out"
    out.mkdir()
    (out / "adapter_config.json").write_text("{}")
    with pytest.raises(OutputExistsError, match="did not write"):
        convert(adapter, out, to="lora", force=True)
    (out / ".kronq").write_text('{"kronq": "0.1.0", "verb": "convert"}')
    (out / "old").write_text("")
    with pytest.raises(OutputExistsError, match="the output exists"):
        convert(adapter, out, to="lora")
    convert(adapter, out, to="lora", force=True)
    assert sorted(p.name for p in out.iterdir()) == [
        ".kronq",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    delta = random_delta((2, 2), (3, 3), 1)
    adapter = Adapter({"big": delta, "bad": copy.deepcopy(delta)})
    adapter["bad"].b.matrices[0].array[1] = np.nan  # type: ignore[union-attr]
    for to in (to_peft, to_lora):
        with pytest.raises(KronqError, match="bad: the layer has values that are not finite"):
            to(adapter)


def test_values_too_large_for_a_dtype_are_refused_by_name(tmp_path: Path) -> None:
    b = Product(Float(np.full((3, 3), 1e6, np.float32)))
    adapter = Adapter({"big": Delta(ONE, b, 1.0, (3, 3))})
    with pytest.raises(KronqError, match=r"big: values are too large for fp16; found 1e\+06"):
        convert(adapter, tmp_path / "out", to="lora", dtype="fp16")
    assert list(tmp_path.iterdir()) == []
    assert to_lora(adapter, dtype="bf16").config["r"] == 3


def test_a_huge_lora_is_refused_before_it_is_built() -> None:
    """Whole factors are small and have full rank: 0.5 MiB here, 32 GiB as a LoRA."""
    square = Product(Float(np.zeros((256, 256), np.float32)))
    adapter = Adapter({"whole": Delta(square, square, 1.0, (256 * 256, 256 * 256))})
    with pytest.raises(UnsupportedError, match=r"would be huge; found up to 32.0 GiB"):
        to_lora(adapter)


@given(st.integers(1, 3000), st.one_of(st.just(-1), st.integers(1, 200)))
def test_dimensions_are_split_as_peft_splits_them(dimension: int, factor: int) -> None:
    assert factorization(dimension, factor) == peft_factorization(dimension, factor)


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=6),
    st.one_of(st.just(-1), st.integers(1, 60)),
)
def test_a_factor_is_found_whenever_there_is_one(dimensions: list[int], factor: int) -> None:
    splits = [(d, *peft_factorization(d, factor)) for d in dimensions]
    assert any(
        all(peft_factorization(d, found) == (m, n) for d, m, n in splits)
        for found in find_factors(splits)
    )


@st.composite
def lokr_deltas(draw: st.DrawFn) -> dict[str, Delta]:
    """Draws layers split by one factor, each with products of any rank or whole matrices."""
    factor = draw(st.sampled_from([-1, 2, 3, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def product(rows: int, cols: int) -> Product:
        rank = draw(st.sampled_from([None, 1, 2, 3, 9]))
        if rank is None:
            return Product(Float(rng.normal(size=(rows, cols)).astype(np.float32)))
        sides = rng.normal(size=(rows, rank)), rng.normal(size=(rank, cols))
        return Product(*(Float(side.astype(np.float32)) for side in sides))

    layers = {}
    for i in range(draw(st.integers(1, 3))):
        rows, cols = (draw(st.sampled_from([12, 36, 60, 77, 143])) for _ in "oi")
        (a_out, b_out), (a_in, b_in) = (peft_factorization(d, factor) for d in (rows, cols))
        scale = draw(st.sampled_from([1.0, 0.3, -2.0]))
        layers[f"layers.{i}.proj"] = Delta(
            product(a_out, a_in), product(b_out, b_in), scale, (rows, cols)
        )
    return layers


@given(lokr_deltas())
@max_examples(40)
def test_peft_takes_any_mixture_of_products_and_whole_factors(layers: dict[str, Delta]) -> None:
    root = torch.nn.Module()
    root.layers = torch.nn.ModuleList(
        torch.nn.ModuleDict({"proj": torch.nn.Linear(*reversed(delta.shape))})
        for delta in layers.values()
    )
    with tempfile.TemporaryDirectory() as folder:
        convert(Adapter(layers), folder, to="peft", force=True)
        found = peft_deltas(peft.PeftModel.from_pretrained(root, folder))
    assert found.keys() == layers.keys()
    for name, delta in layers.items():
        assert difference(found[name], delta.dense()) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("to", ["peft", "lora"])
def test_the_example_on_its_base(tmp_path: Path, smollm_hf: Path, to: str) -> None:
    from transformers import AutoModelForCausalLM

    def run(folder: Path) -> np.ndarray:
        # In float64: in float32 any other order of the same sums moves a logit by 1e-3.
        base = AutoModelForCausalLM.from_pretrained(smollm_hf, dtype=torch.float32)
        return tiny.logits(peft.PeftModel.from_pretrained(base, str(folder)).double().eval())

    example = EXAMPLE
    convert(kronq.load(example), tmp_path / "out", to=to)
    expected, found = run(example), run(tmp_path / "out")
    assert np.abs(found - expected).max() <= 1e-4
    assert difference(found, expected) <= 1e-5
