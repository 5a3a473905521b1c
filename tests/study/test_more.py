"""Studies beyond the own task: PEFT's families, baselines, other tasks, texts, and sequences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import kronq
from benchmarks.baselines import BASELINES
from kronq.evaluate.score import score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.model.matrix import Float
from kronq.study.config import Task
from kronq.study.sources import read_task
from kronq.torch import Place, TrainingSettings, train
from kronq.units import parse_size
from tests.adapters import dense
from tests.cli.command import Kronq

pq = pytest.importorskip("pyarrow.parquet")

TEXT = "Another text, of no task at all; it is here to be read.\n" * 20
SUMS = [
    {"question": f"{n} and {n}", "choices": ["none", str(2 * n)], "answer": 1} for n in range(8)
]
WORDS = [{"question": f"say {w}", "choices": [w, "no"], "answer": 0} for w in "abcdefgh"]
HEAD = """
training: {steps: 4, batch: 4, rate: 0.02}
accuracy: []
tasks:
  sums: {train: sums.jsonl, test_share: 0.5}
  words: {train: words.jsonl, test_share: 0.5}
"""
PEFT = """
families:
  vera: {family: vera, rank: 4}
  vblora: {family: vblora, peft: {num_vectors: 20}}
  unilora: {family: unilora, peft: {theta_d_length: 64}}
  tinylora: {family: tinylora, peft: {u: 6}}
  fourierft: {family: fourierft, peft: {n_frequency: 20}}
methods: [{method: native, bits: [4]}]
"""


@pytest.fixture
def run(tmp_path: Path, tiny_hf: Path, tiny_base: Path, capsys):
    """A function of a study's text that returns its rows; its folder is ``tmp_path / "out"``."""
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, SUMS)))
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, WORDS)))
    (tmp_path / "other.txt").write_text(TEXT)

    def make(config: str, *options: str) -> list[dict]:
        (tmp_path / "study.yaml").write_text(config)
        paths = ["-o", str(tmp_path / "out"), "--base", str(tiny_hf), "--onnx", str(tiny_base)]
        report = Kronq(capsys)("study", str(tmp_path / "study.yaml"), *paths, *options, "--json")
        make.report = json.loads(report.out)
        return pq.read_table(tmp_path / "out" / "table.parquet").to_pylist()

    return make


def one_task(config: str) -> str:
    return config.replace("  words: {train: words.jsonl, test_share: 0.5}\n", "")


@pytest.mark.slow
def test_what_peft_trains_is_scored_as_peft_runs_it(run, tmp_path, tiny_hf) -> None:
    peft = pytest.importorskip("peft")
    rows = run(one_task(HEAD) + PEFT)
    trained = {row["label"]: row for row in rows if row["kind"] == "trained"}
    assert {*trained} == {"vera", "vblora", "unilora", "tinylora", "fourierft"}
    for row in trained.values():
        folder = tmp_path / "out" / row["path"]
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(model, folder).eval()
        assert row["nll"] == pytest.approx(nll(model, tiny_hf, tmp_path), rel=1e-4)
        assert row["shared"]
        assert (row["shared_bytes"] > 0) == (row["label"] != "vblora")
        size = (folder / "adapter_model.safetensors").stat().st_size
        assert row["bytes"] == size or (row["label"] == "tinylora" and row["bytes"] < size)
    files = {row["label"]: row for row in rows if row["kind"] == "file"}
    read = {label for label, row in files.items() if row["nll"]}
    assert read == {"vera", "vblora", "tinylora"}
    assert all("does not read" in files[n]["left_out"] for n in ("unilora", "fourierft"))


def nll(model, base: Path, data: Path) -> float:
    """NLL of the right answers of the half that is scored, in torch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    total, tokens = 0.0, 0
    for example in read_task(Task(train="sums.jsonl", test_share=0.5), data).scored:
        start = len(tokenizer(example.prompt, add_special_tokens=False).input_ids)
        ids = tokenizer(example.text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            logs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), dim=-1)
        picked = logs.gather(1, ids[0, 1:, None])[start - 1 :]
        total, tokens = total - picked.sum().item(), tokens + len(picked)
    return total / tokens


@pytest.mark.slow
def test_every_baseline_of_a_study_is_a_file_that_is_scored(run, tmp_path, tiny_base) -> None:
    tools = sorted({baseline.tool for baseline in BASELINES if not baseline.missing})
    methods = "".join(f"  - {{method: baseline, name: {tool}}}\n" for tool in tools)
    families = (
        "families:\n  lora: {family: lora, rank: 4}\n  kron: {family: kron, rank: 2, b_out: 24}\n"
    )
    rows = run(one_task(HEAD) + families + "methods:\n" + methods)
    files = [row for row in rows if row["kind"] == "file"]
    assert {row["method"] for row in files} == {b.name for b in BASELINES if not b.missing}
    assert not any(row["left_out"] for row in files)
    model, asked = TaskModel(tiny_base, device="cpu", threads=1), tmp_path / "sums.jsonl"
    for row in files[:: len(files) // 6]:
        model.use(kronq.load(tmp_path / "out" / row["path"]))
        every = [score.nll for score in score_examples(model, kronq.read_examples(asked))]
        assert all(min(abs(v - e) for e in every) < 1e-5 for v in row["question_nll"])
        assert row["bytes"] > 0


LORA = "families:\n  lora: {family: lora, rank: 4}\nmethods: [{method: native, bits: [2]}]\n"


@pytest.mark.slow
def test_what_is_trained_for_a_size_is_a_file_of_that_size(run, tmp_path) -> None:
    sizes = {"lora": "6KB", "xs": "3KB"}
    families = "".join(
        f"  {label}: {{family: {family}, rank: 4, target: {sizes[label]}}}\n"
        for label, family in (("lora", "lora"), ("xs", "lora-xs"))
    )
    every = "methods: [{method: native, bits: [2]}, {method: rtn, bits: [4], families: [xs]}]\n"
    rows = run(one_task(HEAD) + f"families:\n{families}{every}")
    files = [row for row in rows if row["kind"] == "file"]
    assert [(f["label"], f["method"]) for f in files] == [
        *(("lora", "in the loop"), ("xs", "in the loop"), ("xs", "rtn")),
    ]
    assert {row["kind"] for row in rows} == {"base", "file"}
    packed = (tmp_path / "out" / "trained").glob("*/packed.safetensors")
    made = [file.read_bytes() for file in packed]
    for row in files[:2]:
        file = tmp_path / "out" / row["path"]
        assert row["bytes"] == file.stat().st_size <= parse_size(sizes[row["label"]], "size")
        assert file.read_bytes() in made
        assert 0 < row["weight_error"] < 1


@pytest.mark.slow
def test_transfer_scores_the_other_task(run, tmp_path, tiny_base) -> None:
    rows = run(HEAD + LORA + "transfer: [[sums, words]]\n")
    other = [row for row in rows if (row["trained_on"], row["task"]) == ("sums", "words")]
    assert [row["kind"] for row in other] == ["trained", "file"]
    assert not [row for row in rows if (row["trained_on"], row["task"]) == ("words", "sums")]
    model = TaskModel(tiny_base, device="cpu", threads=1)
    for row in other:
        model.use(kronq.load(tmp_path / "out" / row["path"]))
        every = [
            s.nll for s in score_examples(model, kronq.read_examples(tmp_path / "words.jsonl"))
        ]
        assert all(min(abs(v - e) for e in every) < 1e-5 for v in row["question_nll"])
    own = next(r for r in rows if (r["trained_on"], r["task"]) == ("sums", "sums") and r["path"])
    assert own["path"] == other[0]["path"]
    assert "sums → words" in (tmp_path / "out" / "page.html").read_text("utf-8")


@pytest.mark.slow
def test_divergence_on_a_text_is_that_of_torch(run, tmp_path, tiny_hf) -> None:
    rows = run(one_task(HEAD) + LORA + "texts: {other: {file: other.txt, tokens: 300}}\n")
    told = {row["kind"]: row for row in rows if row["task"] == "other"}
    assert {*told} == {"base", "trained", "file"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_hf)
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids[:300]
    context = json.loads((tiny_hf / "config.json").read_text())["max_position_embeddings"]
    windows = [torch.tensor([ids[i : i + context]]) for i in range(0, 300, context)]
    logs = {}
    for kind, row in told.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
        if kind != "base":
            for name, delta in kronq.load(tmp_path / "out" / row["path"]).items():
                with torch.no_grad():
                    model.get_submodule(name).weight += torch.from_numpy(dense(delta)).float()
        with torch.no_grad():
            found = [torch.log_softmax(model(w).logits[0, :-1].double(), -1) for w in windows]
        logs[kind] = torch.cat(found).numpy()
        assert row["text_tokens"] == len(logs[kind]) == 300 - len(windows)
    for kind, row in told.items():
        for reference in ("base", "trained"):
            told_kl = row[f"kl_{reference}"]
            if kind == "base" and reference == "trained":
                assert told_kl is None
                continue
            p, q = logs[reference], logs[kind]
            assert told_kl == pytest.approx((np.exp(p) * (p - q)).sum(1).mean(), rel=1e-3, abs=1e-7)
    assert told["base"]["kl_base"] == told["trained"]["kl_trained"] == 0
    assert told["file"]["kl_trained"] > 0
    page = (tmp_path / "out" / "page.html").read_text("utf-8")
    assert f"{told['file']['kl_trained']:.5f}" in page


@pytest.mark.slow
def test_an_adapter_that_cannot_be_trained_stops_no_other(run, tmp_path, tiny_hf, capsys) -> None:
    wild = "families:\n  wild: {family: lora, rank: 1, rate: 1e30}\n"
    (tmp_path / "study.yaml").write_text(one_task(HEAD) + LORA.replace("families:\n", wild))
    config = tmp_path / "study.yaml"
    found = Kronq(capsys)("study", config, "-o", tmp_path / "out", "--base", tiny_hf, "-q")
    assert found.code == 2
    assert found.err.startswith("kronq: error: wild, sums, seed 0: the loss is not a number")
    assert found.err.count("\n") == 1
    rows = pq.read_table(tmp_path / "out" / "table.parquet").to_pylist()
    assert {row["label"] for row in rows if row["label"]} == {"lora"}


@pytest.mark.slow
def test_a_sequence_goes_on_from_the_first_adapter(run, tmp_path, tiny_hf) -> None:
    between = "sequential: [{first: sums, then: words, between: [{method: native, bits: [2]}]}]\n"
    families = LORA.replace("methods:", "  xs: {family: lora-xs, rank: 4}\nmethods:")
    rows = run(HEAD + families + between)
    assert run.report["failed"] == []
    starts = {row["trained_on"] for row in rows if row["trained_on"] not in ("", "sums", "words")}
    assert starts == {"sums, then words", "sums (native bits 2, refit fit), then words"}
    found = {(r["label"], r["trained_on"], r["task"], r["kind"]): r for r in rows}
    for label in ("lora", "xs"):
        first = found[label, "sums", "sums", "trained"]
        for start in starts:
            for task in ("words", "sums"):
                assert found[label, start, task, "trained"]["nll"] > 0
            row = found[label, start, "words", "trained"]
            assert row["path"] != first["path"]
            told = json.loads((tmp_path / "out" / row["path"] / "train.json").read_text())
            assert told["start_sha256"]


@pytest.mark.slow
def test_a_training_that_goes_on_for_nothing_ends_where_it_began(tiny_hf, tmp_path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("\n".join(map(json.dumps, SUMS)))
    for family in ("lora", "kron", "lokr", "lora-xs"):
        shape = kronq.AdapterShape(family, 4, b_out=24)
        settings = TrainingSettings(shape, steps=2, batch=2)
        first = train(tiny_hf, data, tmp_path / f"{family}-1", settings, Place(device="cpu"))
        still = TrainingSettings(shape, steps=1, batch=2, rate=1e-12, alpha=3.0)
        packed = tmp_path / f"{family}.safetensors"
        adapter = kronq.load(first.path)
        if family == "lora-xs":
            adapter = kronq.extract_cores(adapter, tiny_hf)
        kronq.save(kronq.quantize(adapter, bits=8), packed)
        for number, start in enumerate((first.path, packed), 2):
            out = tmp_path / f"{family}-{number}"
            then = train(tiny_hf, data, out, still, Place(device="cpu"), start=start)
            basis = tiny_hf if family == "lora-xs" and start == packed else None
            begun = kronq.load(start, basis=basis)
            for name, delta in kronq.load(then.path).items():
                np.testing.assert_allclose(dense(delta), dense(begun[name]), atol=2e-6)


@pytest.mark.parametrize("family", ["lora", "kron", "lokr"])
@pytest.mark.parametrize(
    "config", [kronq.Native(4), kronq.Native(2), kronq.Compact(size=4000)], ids=["4", "2", "4KB"]
)
def test_what_goes_on_from_codes_learns_as_from_floats(family, config, tiny_hf, tmp_path) -> None:
    """Codes divide ΔW among factors of other sizes, and a step of AdamW is of the rate's."""
    data = tmp_path / "sums.jsonl"
    data.write_text("\n".join(map(json.dumps, SUMS)))
    shape = kronq.AdapterShape(family, 2, b_out=24)
    first = train(tiny_hf, data, tmp_path / "1", TrainingSettings(shape, steps=20, batch=4))
    packed = tmp_path / "packed.safetensors"
    kronq.save(kronq.quantize(kronq.load(first.path), config), packed)
    again = TrainingSettings(shape, steps=20, batch=4, warmup=0, alpha=1.0)
    losses = []
    for number, start in enumerate((first.path, packed)):
        out = tmp_path / f"from-{number}"
        train(tiny_hf, data, out, again, start=start)
        losses.append(json.loads((out / "train.json").read_text())["losses"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_a_component_without_codes_can_learn(tiny_hf, tmp_path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("\n".join(map(json.dumps, SUMS)))
    shape = kronq.AdapterShape("lora", 2)
    settings = TrainingSettings(shape, steps=5, batch=4)
    first = kronq.load(train(tiny_hf, data, tmp_path / "one", settings).path)
    empty = {}
    for name, delta in first.items():
        left, right = (matrix.copy() for matrix in delta.b.float32())
        left[:, 1], right[1] = 0, 0
        b = replace(delta.b, left=Float(left), right=Float(right))
        empty[name] = replace(delta, b=b)
    start = kronq.Adapter(empty)
    then = kronq.load(train(tiny_hf, data, tmp_path / "two", settings, start=start).path)
    assert all(np.linalg.matrix_rank(dense(delta)) == 2 for delta in then.values())


def test_other_shapes_are_no_start(tiny_hf, tmp_path, capsys) -> None:
    verb = Kronq(capsys)
    data = tmp_path / "sums.jsonl"
    data.write_text("\n".join(map(json.dumps, SUMS)))
    common = ["train", str(tiny_hf), str(data), "--steps", "1", "--warmup", "0"]
    verb(*common, "-o", str(tmp_path / "one"), "--family", "lora", "--rank", "4")
    again = [*common, "-o", str(tmp_path / "two"), "--start", str(tmp_path / "one")]
    assert "other shapes" in verb.refuses(*again, "--family", "lora", "--rank", "8")
    assert "PEFT's" in verb.refuses(*again, "--family", "vera")
    assert not (tmp_path / "two").exists()
