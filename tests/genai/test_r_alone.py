"""LoRA-XS's R alone to the end: exported and run, with PEFT's logits as the judge."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import kronq as api
from kronq.cores.randomized_svd import singular_bases
from kronq.model.frozen_bases import BasisRecipe
from tests.cli.command import Kronq
from tests.cli.conftest import kronq
from tests.cores.adapters import write_lora_xs
from tests.cores.weights import RANK

__all__ = ["kronq"]
pytest.importorskip("onnxruntime_genai")

IDS = [[5, 40, 41, 42, 99, 7]]
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
LAYERS = [f"model.layers.{i}.{module}" for i in range(2) for module in MODULES]
TENSOR = "base_model.model.{}"


def write_trained(folder: Path, hf: Path, bases: str) -> Path:
    """Writes a LoRA-XS folder of the tiny llama, which changes its logits a lot."""
    weights, draws = load_file(hf / "model.safetensors"), np.random.RandomState(1)
    pairs = {}
    for layer in LAYERS:
        weight = weights[f"{layer}.weight"]
        pairs[layer] = singular_bases(weight, RANK, BasisRecipe())
        if bases == "random":
            pairs[layer] = tuple(0.2 * draws.normal(size=m.shape) for m in pairs[layer])
    pairs = {layer: tuple(m.astype(np.float32) for m in pair) for layer, pair in pairs.items()}
    write_lora_xs(folder, pairs, size=0.4)
    return folder


def peft_logits(hf: Path, folder: Path | None) -> np.ndarray:
    """PEFT's logits with a LoRA-XS folder, whose R is multiplied into lora_B, or of the base."""
    model = transformers.LlamaForCausalLM.from_pretrained(hf).eval()
    if folder is not None:
        given = json.loads((folder / "adapter_config.json").read_text())
        stored = load_file(folder / "adapter_model.safetensors")
        config = peft.LoraConfig(
            r=given["r"], lora_alpha=given["lora_alpha"], target_modules=LAYERS
        )
        model = peft.get_peft_model(model, config).eval()
        for layer in LAYERS:
            module = model.get_submodule(f"base_model.model.{layer}")
            b, r, a = (
                torch.from_numpy(stored[TENSOR.format(layer) + end])
                for end in (".lora_B.weight", "_lora_latent_mapping.weight", ".lora_A.weight")
            )
            module.lora_A["default"].weight.data = a
            module.lora_B["default"].weight.data = b @ r
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


@pytest.fixture(scope="module", params=["singular", "random"])
def places(
    request: pytest.FixtureRequest, tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The adapter as trained, R alone at 4 bits, its bases, and R̂ in LoRA-XS's own folder."""
    tmp = tmp_path_factory.mktemp("r-alone")
    xs, basis = write_trained(tmp / "xs", tiny_hf, request.param), tiny_hf
    if request.param == "random":
        basis = api.write_basis(xs, tmp / "basis.safetensors")
    cores = api.quantize(api.extract_cores(api.load(xs), basis), bits=4)
    small = api.save(cores, tmp / "small.safetensors")
    api.convert(api.load(small), tmp / "rounded", to="lora-xs", basis=basis)
    return {"xs": xs, "basis": basis, "small": small, "rounded": tmp / "rounded"}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adapters"


def export(kronq: Kronq, places: dict[str, Path], base: Path, out: Path, *options: Any) -> Path:
    told = (places["small"], "--basis", places["basis"], "--base", base)
    result = kronq("export", *told, "-o", out, *options)
    assert result.code == 0, result.err
    if "--form" not in options:
        run = f"kronq chat {out} --adapter {places['small']} --basis {places['basis']}"
        assert f"run it: {run}" in result.out
    return out


@pytest.mark.parametrize("form", ["slots", "branch", "merged"])
def test_logits_are_those_of_peft(
    kronq: Kronq, places: dict[str, Path], tiny_hf: Path, tiny_base: Path, tmp_path: Path, form: str
) -> None:
    session = api.Session(export(kronq, places, tiny_base, tmp_path / "out", "--form", form))
    name = None
    if form == "slots":
        name = "xs"
        session.load(name, places["small"], basis=places["basis"])
    found = session.logits(IDS, adapter=name)
    wanted, bare = peft_logits(tiny_hf, places["rounded"]), peft_logits(tiny_hf, None)
    np.testing.assert_allclose(found, wanted, atol=5e-5 * abs(wanted).max())
    trained = peft_logits(tiny_hf, places["xs"])
    effect = np.linalg.norm(trained - bare)
    assert effect > 0.1 * np.linalg.norm(bare)
    assert 1e-3 * effect < np.linalg.norm(found - trained) < 0.3 * effect


def test_sessions_take_paths_sums_and_adapters_in_memory(
    kronq: Kronq, places: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    session = api.Session(export(kronq, places, tiny_base, tmp_path / "out", "--no-verify"))
    small, basis = places["small"], places["basis"]
    session.load("path", small, basis=basis)
    session.load("memory", api.load(small), basis=basis)
    session.load("half", api.load(small), strength=0.5, basis=basis)
    session.load("sum", {small: 0.25, places["rounded"]: 0.25}, basis=basis)
    found = {name: session.logits(IDS, adapter=name) for name in session.adapters}
    np.testing.assert_array_equal(found["path"], found["memory"])
    np.testing.assert_allclose(found["half"], found["sum"], atol=1e-4)
    assert abs(found["path"] - found["half"]).max() > 1e-2
    with pytest.raises(api.UnsupportedError, match=r"R alone.*basis tells where"):
        session.load("none", small)


def test_a_basis_that_has_changed_is_refused_though_the_adapter_is_in_the_cache(
    kronq: Kronq, places: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    model = export(kronq, places, tiny_base, tmp_path / "out", "--no-verify")
    basis = tmp_path / places["basis"].with_suffix(".safetensors").name
    if places["basis"].is_dir():
        shutil.copytree(places["basis"], basis)
    else:
        shutil.copy(places["basis"], basis)
    for cached in (False, True):
        session = api.Session(model)
        assert session.load("xs", places["small"], basis=basis).cached is cached
    file = basis / "model.safetensors" if basis.is_dir() else basis
    damaged = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(damaged[:8], "little")
    damaged[start::4] = bytes(byte ^ 1 for byte in damaged[start::4])
    file.write_bytes(damaged)
    session.unload("xs")
    with pytest.raises(api.KronqError, match=r"the weights are not those|not those that were"):
        session.load("xs", places["small"], basis=basis)


def test_every_verb_that_runs_takes_the_basis(
    kronq: Kronq,
    places: dict[str, Path],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = export(kronq, places, tiny_base, tmp_path / "out", "--no-verify")
    small, basis = places["small"], ("--basis", places["basis"])
    ask = ("run", model, "--adapter", small, "--prompt", "abc", "--max-tokens", 4)
    session = api.Session(model)
    session.load("xs", small, basis=places["basis"])
    wanted = session.generate("abc", adapter="xs", max_tokens=4).tokens
    assert wanted != session.generate("abc", max_tokens=4).tokens
    assert kronq(*ask, *basis, "--json").json()["tokens"] == list(wanted)
    assert "--basis tells where" in kronq.refuses(*ask)
    chat = ("chat", model, "--adapter", small)
    monkeypatch.setattr("sys.stdin", io.StringIO("/quit\n"))
    assert "adapter: small (of none, small)" in kronq(*chat, *basis).err
    assert "--basis tells where" in kronq.refuses(*chat)
    few = ("--prompt-tokens", 4, "--new-tokens", 2, "--rounds", 1, "--threads", 1)
    bench = ("bench", model, "--adapter", small, *few)
    assert "--basis tells where" in kronq.refuses(*bench)
    assert kronq(*bench, *basis, "--json").json()["with_adapter"]["adapter"] == str(small)


def test_score_takes_the_basis(
    kronq: Kronq, places: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "abc", "answer": "d"}\n{"prompt": "e", "answer": "fg"}\n')
    told = ("--base", tiny_base, "--tasks", tasks, "--basis", places["basis"])
    rows = kronq("score", places["small"], places["rounded"], *told, "--json").json()["rows"]
    bare, alone, folder = (row["standing"]["nll_per_token"] for row in rows)
    assert alone == pytest.approx(folder, rel=1e-4)
    assert alone != pytest.approx(bare, rel=1e-2)
    assert "--basis tells where" in kronq.refuses("score", places["small"], *told[:4])
