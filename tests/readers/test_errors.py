"""Errors of bad inputs: one line with the file, the layer and the fault."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kronq
from kronq.errors import FormatError, KronqError, KronqWarning, UnsupportedError

Q = "base_model.model.model.layers.0.self_attn.q_proj"
V = "base_model.model.model.layers.0.self_attn.v_proj"
LOKR = {"peft_type": "LOKR", "r": 2, "alpha": 4, "target_modules": ["q_proj"]}
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}

Change = Callable[[dict[str, Any]], None]


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def lokr(path: Path) -> Path:
    tensors = {f"{Q}.lokr_w1": ones(4, 4), f"{Q}.lokr_w2_a": ones(15, 2)}
    return folder(path, LOKR, tensors | {f"{Q}.lokr_w2_b": ones(2, 9)})


def lora(path: Path) -> Path:
    return folder(path, LORA, {f"{Q}.lora_A.weight": ones(2, 9), f"{Q}.lora_B.weight": ones(15, 2)})


def folder(path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def change_config(path: Path, **settings: Any) -> Path:
    config = path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return config


def change_tensors(path: Path, change: Change) -> Path:
    weights = path / "adapter_model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    return weights


def refused(path: Path, **options: Any) -> KronqError:
    with pytest.raises(KronqError) as error:
        kronq.load(path, **options)
    assert "\n" not in str(error.value)
    return error.value


def test_the_untouched_folders_are_read(tmp_path: Path) -> None:
    assert list(kronq.load(lokr(tmp_path / "a"))) == list(kronq.load(lora(tmp_path / "b")))


def test_a_missing_path(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert str(refused(path)) == f"{path}: no such file or folder"


def test_empty_folder(tmp_path: Path) -> None:
    assert str(refused(tmp_path)) == (
        f"{tmp_path}: no adapter in this folder; "
        "expected adapter_config.json and adapter_model.safetensors"
    )


def test_no_config(tmp_path: Path) -> None:
    (lokr(tmp_path) / "adapter_config.json").unlink()
    error = refused(tmp_path)
    assert error.path == tmp_path
    assert "no adapter_config.json beside the weights (hint: alpha" in str(error)


def test_no_weights(tmp_path: Path) -> None:
    weights = lokr(tmp_path) / "adapter_model.safetensors"
    weights.unlink()
    assert str(refused(tmp_path)) == f"{weights}: no such file"


@pytest.mark.parametrize("keep", [0, 7, 40, -1])
def test_truncated_weights(tmp_path: Path, keep: int) -> None:
    weights = lokr(tmp_path) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    error = refused(tmp_path)
    assert isinstance(error, FormatError)
    assert error.path == weights
    assert "hint: was the download or the copy complete?" in str(error)


def test_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    assert "found a header of 4,611,686,018,427,387,904 bytes in a file of 10" in str(refused(path))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (lora(tmp_path) / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    error = refused(tmp_path)
    assert error.path == tmp_path / "adapter_model.bin"
    assert "a pickle can run code" in str(error)
    assert "safe_serialization=True" in str(error)


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "\xff\xfe"])
def test_config_that_is_not_json(tmp_path: Path, text: str) -> None:
    config = lokr(tmp_path) / "adapter_config.json"
    config.write_bytes(text.encode("latin-1"))
    error = refused(tmp_path)
    assert isinstance(error, FormatError)
    assert error.path == config
    assert "not JSON" in str(error)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"peft_type": ["LORA"]}'])
def test_config_of_another_form(tmp_path: Path, text: str) -> None:
    (lokr(tmp_path) / "adapter_config.json").write_text(text)
    reason = "the peft_type is not supported" if text.startswith("{") else "no JSON object"
    assert reason in str(refused(tmp_path))


def test_peft_type_of_another_method(tmp_path: Path) -> None:
    config = change_config(lokr(tmp_path), peft_type="IA3")
    assert str(refused(tmp_path)).startswith(
        f"{config}: an adapter of IA3: scales of activations, which kronq does not read (hint: PEFT"
    )
    change_config(lokr(tmp_path), peft_type="NEW")
    assert "the peft_type is not supported; found NEW; expected one of ADALORA" in str(
        refused(tmp_path)
    )


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"lora_bias": True, "target_parameters": ["x"]}, "lora_bias, target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_settings_beyond_the_normal_form(
    tmp_path: Path, settings: dict[str, Any], found: str
) -> None:
    config = change_config(lora(tmp_path), **settings)
    error = refused(tmp_path)
    assert isinstance(error, UnsupportedError)
    assert (error.path, error.found) == (config, found)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_inits_that_change_the_base(tmp_path: Path, init: str) -> None:
    """Relative to the original base such an adapter is not B·A; PEFT can convert it."""
    change_config(lora(tmp_path), init_lora_weights=init)
    assert "path_initial_model_for_weight_conversion" in str(refused(tmp_path))


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_inits_that_leave_the_base_alone(tmp_path: Path, init: bool | str) -> None:
    change_config(lora(tmp_path), init_lora_weights=init)
    assert len(kronq.load(tmp_path)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": None}, "alpha is not a number; found None"),
        ({"alpha": "4"}, "alpha is not a number; found '4'"),
        ({"alpha": 10**400}, "alpha is not a number; found 1000"),
        ({"r": True}, "r is not a number; found True"),
        ({"r": 0}, "model.layers.0.self_attn.q_proj: the config's rank is not that of the"),
        ({"alpha": 1e10}, "model.layers.0.self_attn.q_proj: the scale is absurd"),
        ({"alpha": float("nan")}, "the scale is absurd; found alpha nan"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern has a bad expression"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern['q_proj'] is not a number; found 'x'"),
        ({"rank_pattern": [1]}, "rank_pattern is not layer → number; found [1]"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    config = change_config(lokr(tmp_path), **settings)
    error = refused(tmp_path)
    assert message in str(error)
    # A malformed setting is reported for the config, an absurd one for the layer.
    assert error.path == (
        config if error.layer is None else config.parent / "adapter_model.safetensors"
    )


@pytest.mark.parametrize(
    "settings", [{"r": 8}, {"rank_pattern": {"q_proj": 8}}], ids=["r", "rank_pattern"]
)
@pytest.mark.parametrize("make", [lokr, lora])
def test_a_rank_that_is_not_the_tensors(
    tmp_path: Path, make: Callable[[Path], Path], settings: dict[str, Any]
) -> None:
    """The scale could be α / 8 or α / 2, so the user must choose."""
    change_config(make(tmp_path), **settings)
    error = refused(tmp_path)
    assert (error.layer, error.found) == ("model.layers.0.self_attn.q_proj", 2)
    assert 'expected 8 (hint: correct it, or scale_rule="lycoris", which divides by' in str(error)
    (delta,) = kronq.load(tmp_path, scale_rule="lycoris").values()
    assert delta.scale == 4 / 2


def test_whole_factors_need_a_rank(tmp_path: Path) -> None:
    config = {**LOKR, "r": 0}
    folder(tmp_path, config, {f"{Q}.lokr_w1": ones(4, 4), f"{Q}.lokr_w2": ones(15, 9)})
    assert "the scale rule 'peft' divides by a rank and this layer has none" in str(
        refused(tmp_path)
    )


def test_unknown_tensors_are_all_listed(tmp_path: Path) -> None:
    extra = {f"{Q}.hada_w1_a": ones(2, 2), "lm_head.weight": ones(2, 2)}
    weights = change_tensors(lokr(tmp_path), lambda tensors: tensors.update(extra))
    error = refused(tmp_path)
    assert isinstance(error, UnsupportedError)
    assert error.path == weights
    assert error.found == f"{Q}.hada_w1_a, lm_head.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop(f"{Q}.lokr_w2_b"),
            "incomplete or contradictory factors; found lokr_w2_a; "
            "expected lokr_w2, or lokr_w2_a and lokr_w2_b",
        ),
        (lambda t: t.pop(f"{Q}.lokr_w1"), "incomplete or contradictory factors; found no lokr_w1"),
        (
            lambda t: t.update({f"{Q}.lokr_w1_a": ones(4, 2)}),
            "incomplete or contradictory factors; found lokr_w1, lokr_w1_a",
        ),
        (
            lambda t: t.update({f"{Q}.lokr_w2_b": ones(3, 9)}),
            "lokr_w2_a and lokr_w2_b do not multiply; found [15, 2] and [3, 9]",
        ),
    ],
)
def test_lokr_factors_that_do_not_belong_together(
    tmp_path: Path, change: Change, message: str
) -> None:
    weights = change_tensors(lokr(tmp_path), change)
    error = refused(tmp_path)
    assert (error.path, error.layer) == (weights, "model.layers.0.self_attn.q_proj")
    assert message in str(error)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "lora_B [15, 2]"),
        (lambda t: t.update({f"{Q}.lora_A.weight": ones(3, 9)}), "lora_A [3, 9], lora_B [15, 2]"),
    ],
)
def test_lora_factors_that_do_not_belong_together(
    tmp_path: Path, change: Change, found: str
) -> None:
    change_tensors(lora(tmp_path), change)
    error = refused(tmp_path)
    assert (error.layer, error.found) == ("model.layers.0.self_attn.q_proj", found)


def test_a_rank_divided_into_groups(tmp_path: Path) -> None:
    """PEFT's LoRA of a grouped convolution: its ΔW is no product of two matrices."""

    def conv(tensors: dict[str, Any]) -> None:
        tensors[f"{Q}.lora_A.weight"] = ones(2, 9, 3, 3)
        tensors[f"{Q}.lora_B.weight"] = ones(15, 1, 1, 1)

    change_tensors(lora(tmp_path), conv)
    assert "rank is divided into groups is not supported" in str(refused(tmp_path))


@pytest.mark.parametrize("dora", [True, False])
def test_magnitudes_and_their_config(tmp_path: Path, dora: bool) -> None:
    change_config(lora(tmp_path), use_dora=dora)
    if not dora:
        name = f"{Q}.lora_magnitude_vector"
        change_tensors(tmp_path, lambda tensors: tensors.update({name: ones(15)}))
    error = refused(tmp_path)
    assert error.found == "model.layers.0.self_attn.q_proj"
    assert "use_dora" in error.message


@pytest.mark.parametrize(
    "array", [ones(15), np.ones((15, 2), np.int8), np.ones((0, 2)), ones(0, 2)]
)
def test_tensors_that_are_no_matrices(tmp_path: Path, array: np.ndarray) -> None:
    change_tensors(lokr(tmp_path), lambda tensors: tensors.update({f"{Q}.lokr_w2_a": array}))
    assert "is not a floating-point matrix; found" in str(refused(tmp_path))


def test_no_layers(tmp_path: Path) -> None:
    folder(tmp_path, LOKR, {})
    assert "no adapted layers" in str(refused(tmp_path))


def test_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"lm_head.weight": ones(2, 2), "norm.weight": ones(2)}, path)
    message = str(refused(path))
    assert "weights of a model, not an adapter; found lm_head.weight, norm.weight" in message
    assert "expected PEFT, LyCORIS LoKr or LoRA, Kron-LoRA factors or a packed file" in message


def test_a_folder_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"lm_head.weight": ones(2, 2)}, tmp_path / "model.safetensors")
    assert "this is a model; the adapter is another folder or file" in str(refused(tmp_path))


def test_a_folder_of_adapters(tmp_path: Path) -> None:
    for i in range(5):
        save_file({"a": ones(2, 2)}, tmp_path / f"{i}.safetensors")
    assert "one of its 5 files; 'kronq quantize --each' takes all" in str(refused(tmp_path))
    for i in range(5):
        (tmp_path / f"peft-{i}").mkdir()
        (tmp_path / f"peft-{i}" / "adapter_config.json").write_text("{}")
    assert "peft-2, or one of 2 more; 'kronq quantize --each' takes all" in str(refused(tmp_path))


def test_a_file_of_adalora_alone(tmp_path: Path) -> None:
    layer = "base_model.model.layers.0.q_proj"
    shapes = {"lora_A": (4, 8), "lora_B": (8, 4), "lora_E": (4, 1)}
    path = tmp_path / "alone.safetensors"
    save_file({f"{layer}.{part}": ones(*shape) for part, shape in shapes.items()}, path)
    message = str(refused(path))
    assert "PEFT's tensors without their config" in message
    assert "expected adapter_config.json beside it" in message


@pytest.mark.parametrize("name", ["format", "scale_rule"])
def test_options_that_do_not_exist(tmp_path: Path, name: str) -> None:
    assert "found tensorflow" in str(refused(lokr(tmp_path), **{name: "tensorflow"}))


def test_two_tensors_for_one_part(tmp_path: Path) -> None:
    """One of them won silently; the same layer may also be there with a wrapper's prefix."""
    a = f"{Q}.lora_A"
    for second in (f"{a}.default.weight", f"{a}.other.weight", f"_orig_mod.{a}.weight"):
        folder = lora(tmp_path)
        change_tensors(folder, lambda t, second=second: t.update({second: ones(2, 9)}))  # type: ignore[misc]
        error = refused(folder)
        assert error.layer == "model.layers.0.self_attn.q_proj"
        assert error.found == ", ".join(sorted([f"{a}.weight", second]))
        assert "two tensors are the same part of one layer" in str(error)


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.base_model.model.",
        "module.base_model.model.",
        "base_model.model._orig_mod.",
        "base_model.model.module.",
        "_fsdp_wrapped_module.base_model.model._fsdp_wrapped_module.",
        "module._orig_mod.base_model.model.",
    ],
)
@pytest.mark.parametrize("make", [lokr, lora])
def test_wrappers_are_no_part_of_a_name(
    tmp_path: Path, make: Callable[[Path], Path], prefix: str
) -> None:
    """torch.compile, FSDP and DataParallel put them into the path of every layer."""
    expected = {name: d.dense() for name, d in kronq.load(make(tmp_path / "plain")).items()}
    path = make(tmp_path / "wrapped")
    weights = path / "adapter_model.safetensors"
    inside = {
        name.replace("base_model.model.", prefix).replace(
            "layers.0.", "layers.0._checkpoint_wrapped_module.", 1
        ): value
        for name, value in load_file(weights).items()
    }
    save_file(inside, weights)
    adapter = kronq.load(path)
    assert list(adapter) == list(expected)
    for name, delta in adapter.items():
        assert (delta.dense() == expected[name]).all()
    kronq.convert(adapter, tmp_path / "out", to="peft")
    assert list(load_file(tmp_path / "out" / "adapter_model.safetensors")) == list(
        load_file(tmp_path / "plain" / "adapter_model.safetensors")
    )


def test_the_name_of_an_adapter_in_the_keys(tmp_path: Path) -> None:
    weights = lora(tmp_path) / "adapter_model.safetensors"
    save_file(
        {k.replace(".weight", ".task.weight"): v for k, v in load_file(weights).items()}, weights
    )
    assert list(kronq.load(tmp_path)) == ["model.layers.0.self_attn.q_proj"]


def test_factors_in_float64_become_float32(tmp_path: Path) -> None:
    weights = lora(tmp_path) / "adapter_model.safetensors"
    save_file({k: v.astype(np.float64) for k, v in load_file(weights).items()}, weights)
    (delta,) = kronq.load(tmp_path).values()
    assert {m.dtype for m in delta.matrices} == {"float32"}
    assert (delta.dense() == 2 * 4 / 2).all()


def test_a_negative_alpha_is_read(tmp_path: Path) -> None:
    """Sliders and task arithmetic have one; the scale is -2, and no hint offers 1."""
    change_config(lora(tmp_path), lora_alpha=-4)
    (delta,) = kronq.load(tmp_path).values()
    assert delta.scale == -2
    kronq.convert(kronq.load(tmp_path), tmp_path / "out", to="lora")
    (written,) = kronq.load(tmp_path / "out").values()
    assert (written.dense() == delta.dense()).all()


@pytest.mark.parametrize("bias", [None, False, "none"])
def test_no_bias_by_any_name(tmp_path: Path, bias: Any) -> None:
    change_config(lora(tmp_path), bias=bias)
    assert len(kronq.load(tmp_path)) == 1


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), None, "4"])
def test_an_alpha_that_no_rule_uses_may_be_anything(tmp_path: Path, alpha: Any) -> None:
    change_config(lokr(tmp_path), alpha=alpha)
    (delta,) = kronq.load(tmp_path, scale_rule="one").values()
    assert delta.scale == 1


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    """PEFT's target_parameters give r rows to each expert: no LoRA of rank r times experts."""
    for name in ("mlp.experts", "mlp.experts.base_layer"):
        layer = f"base_model.model.model.layers.0.{name}"
        tensors = {f"{layer}.lora_A.weight": ones(8, 9), f"{layer}.lora_B.weight": ones(15, 8)}
        folder(tmp_path, LORA, tensors)
        for rule in (None, "lycoris", "one"):
            error = refused(tmp_path, scale_rule=rule)
            assert "stacked weights of experts (target_parameters)" in str(error)
            assert error.found == f"model.layers.0.{name}"


@pytest.mark.parametrize("rule", [None, "lycoris", "one"])
def test_experts_are_refused_by_their_ranks_too(tmp_path: Path, rule: str | None) -> None:
    """PEFT can adapt the stacked weights of any module: r rows for each of them."""
    experts = lora(tmp_path)
    change_tensors(
        experts,
        lambda t: t.update({f"{Q}.lora_A.weight": ones(8, 9), f"{Q}.lora_B.weight": ones(15, 8)}),
    )
    error = refused(experts, scale_rule=rule)
    assert "the factors have 4 times the config's rank, as those of experts have" in str(error)
    change_config(experts, r=8)
    assert kronq.load(experts)["model.layers.0.self_attn.q_proj"].rank == 8


def test_more_patterns_than_python_caches(tmp_path: Path) -> None:
    """Each is compiled once: 600 layers took a minute."""
    config: dict[str, Any] = {**LORA, "rank_pattern": {}}
    tensors = {}
    for i in range(600):
        layer = f"model.layers.{i}.q_proj"
        config["rank_pattern"]["^" + layer.replace(".", r"\.")] = 1 + i % 3
        tensors[f"base_model.model.{layer}.lora_A.weight"] = ones(1 + i % 3, 2)
        tensors[f"base_model.model.{layer}.lora_B.weight"] = ones(2, 1 + i % 3)
    folder(tmp_path, config, tensors)
    begun = time.process_time()
    adapter = kronq.load(tmp_path)
    assert time.process_time() - begun < 5
    assert adapter["model.layers.599.q_proj"].scale == 4 / 3


def test_layouts_of_others_are_named(tmp_path: Path) -> None:
    named = tmp_path / "out"
    named.mkdir()
    lora(named / "task_a")
    assert f"hint: give {named / 'task_a'})" in str(refused(named))

    split = lora(tmp_path / "split")
    weights = split / "adapter_model.safetensors"
    weights.rename(split / "adapter_model-00001-of-00001.safetensors")
    (split / "adapter_model.safetensors.index.json").write_text("{}")
    assert "the weights are split over several files" in str(refused(split))

    mlx = tmp_path / "mlx"
    mlx.mkdir()
    (mlx / "adapter_config.json").write_text('{"fine_tune_type": "lora"}')
    save_file({"x.lora_a": ones(2, 2)}, mlx / "adapters.safetensors")
    assert "an adapter of mlx-lm" in str(refused(mlx))


def test_loftq_gets_a_hint_of_its_own(tmp_path: Path) -> None:
    change_config(lora(tmp_path), init_lora_weights="loftq")
    assert "does not undo LoftQ" in str(refused(tmp_path))


def attention(path: Path, lacking: set[str], targets: Any, layers: int = 4) -> Path:
    """Saves LoRA on q, k and v of some layers, without those that are lacking."""
    names = [f"model.layers.{i}.self_attn.{m}_proj" for i in range(layers) for m in "qkv"]
    tensors = {}
    for name in names:
        if not any(name.endswith(each) for each in lacking):
            tensors[f"base_model.model.{name}.lora_A.weight"] = ones(2, 9)
            tensors[f"base_model.model.{name}.lora_B.weight"] = ones(15, 2)
    return folder(path, LORA | {"target_modules": targets}, tensors)


KINDS = ["q_proj", "k_proj", "v_proj"]


def test_a_target_module_without_any_layer(tmp_path: Path) -> None:
    """Where q and v are, k was lost: PEFT warns, and a converted copy would lack it silently."""
    error = refused(attention(tmp_path, {"k_proj"}, KINDS))
    assert isinstance(error, FormatError)
    assert error.found == "k_proj"
    assert "take it out of target_modules" in str(error)
    assert len(kronq.load(attention(tmp_path, {"k_proj"}, ["q_proj", "v_proj"]))) == 8


def test_target_modules_of_other_models_are_noted(tmp_path: Path) -> None:
    """One list for many models is PEFT's custom: it asks for a single match."""
    path = attention(tmp_path, set(), [*KINDS, "c_attn", "down_proj"])
    with pytest.warns(KronqWarning, match=r"one of these target_modules: c_attn, down_proj: the"):
        assert len(kronq.load(path)) == 12


@pytest.mark.parametrize("lost", [[17], [3, 17], [17, 18, 19]], ids=str)
def test_a_block_that_is_missing_whole(tmp_path: Path, lost: list[int]) -> None:
    lacking = {f"layers.{i}.self_attn.{kind}" for i in lost for kind in KINDS}
    error = refused(attention(tmp_path, lacking, KINDS, layers=30))
    assert error.found == ", ".join(sorted(f"model.layers.{i}" for i in lost))
    kept = [i for i in range(30) if i not in lost]
    change_config(tmp_path, layers_to_transform=kept)  # PEFT's own way to leave blocks out
    assert len(kronq.load(tmp_path)) == 3 * len(kept)


@pytest.mark.parametrize(
    "kept", [range(3, 30, 4), [i for i in range(30) if i % 4 != 3], [5, 15, 16], [20, 21]], ids=str
)
def test_kinds_of_layers_that_only_some_blocks_have(tmp_path: Path, kept: Any) -> None:
    """Attention in every fourth block, state spaces in the others, or a few blocks chosen."""
    lacking = {f"layers.{i}.self_attn.{k}" for i in range(30) if i not in kept for k in KINDS}
    assert len(kronq.load(attention(tmp_path, lacking, KINDS, layers=30))) == 3 * len(kept)


def test_a_listed_layer_that_is_missing(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.self_attn.{kind}" for i in range(4) for kind in KINDS]
    error = refused(attention(tmp_path, {"2.self_attn.k_proj"}, names))
    assert error.found == "model.layers.2.self_attn.k_proj"


@pytest.mark.parametrize("targets", [KINDS, r".*\.self_attn\.[qkv]_proj"])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_one_layer_missing_among_its_siblings(tmp_path: Path, targets: Any, layer: int) -> None:
    lacking = f"model.layers.{layer}.self_attn.q_proj"
    error = refused(attention(tmp_path, {lacking}, targets))
    assert (error.found, error.path) == (lacking, tmp_path / "adapter_model.safetensors")
    listed = [f"model.layers.{i}.self_attn.{kind}" for i in range(4) for kind in KINDS]
    listed.remove(lacking)
    change_config(tmp_path, target_modules=listed)
    assert list(kronq.load(tmp_path))  # as the hint says


def test_layers_that_share_keys_and_values_miss_nothing(tmp_path: Path) -> None:
    """The last layers of some models have no k and v of their own."""
    shared = {f"{i}.self_attn.{kind}" for i in (2, 3) for kind in ("k_proj", "v_proj")}
    assert len(kronq.load(attention(tmp_path, shared, KINDS))) == 8


@pytest.mark.parametrize(
    "name",
    [
        "non_lora_trainables.bin",
        "trainable_params.bin",
        "new_embeddings.safetensors",
        "mm_projector.bin",
        "value_head.safetensors",
    ],
)
def test_trained_weights_in_a_file_beside(tmp_path: Path, name: str) -> None:
    (lora(tmp_path) / name).write_bytes(b"")
    error = refused(tmp_path)
    assert isinstance(error, UnsupportedError)
    assert error.found == name
