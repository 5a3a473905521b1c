"""``kronq study`` on the tiny llama: what it makes, keeps, and makes anew."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch  # noqa: F401 - left out where it is not installed

import kronq
from kronq.evaluate.score import score_examples
from kronq.evaluate.task_model import TaskModel
from tests.cli.command import Kronq

pq = pytest.importorskip("pyarrow.parquet")

QUESTIONS = [
    {"question": f"{n} and {n}", "choices": ["none", str(2 * n), "x"], "answer": 1}
    for n in range(12)
]
CONFIG = """
seeds: [0, 1]
training: {steps: 6, batch: 4, rate: 0.02}
families:
  lora: {family: lora, rank: 4}
  kron: {family: kron, rank: 2, b_out: 24}
  xs: {family: lora-xs, rank: 4}
tasks:
  sums: {train: sums.jsonl, test_share: 0.5}
methods:
  - {method: native, bits: [4]}
  - {method: compact, sizes: [4KB], refit: unbiased}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    (tmp_path / "study.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture
def command(desk: Path, tiny_hf: Path, tiny_base: Path) -> list[str]:
    """The verb, on a small study."""
    paths = {"-o": desk / "out", "--base": tiny_hf, "--onnx": tiny_base}
    options = [str(part) for pair in paths.items() for part in pair]
    return ["study", str(desk / "study.yaml"), *options]


def contents(folder: Path) -> dict[Path, bytes]:
    parts = ("trained", "files", "scores")
    return {f: f.read_bytes() for part in parts for f in (folder / part).rglob("*") if f.is_file()}


@pytest.mark.slow
def test_every_row_is_what_scoring_its_file_gives(command, desk, tiny_hf, tiny_base, verb) -> None:
    verb(*command)
    rows = pq.read_table(desk / "out" / "table.parquet").to_pylist()
    assert len(rows) == 1 + 3 * 2 * 3
    files = [row for row in rows if row["kind"] == "file" and row["seed"] == 1]
    assert {row["method"] for row in files} == {"native", "compact"}
    model = TaskModel(tiny_base, device="cpu", threads=1)
    asked = kronq.read_examples(desk / "sums.jsonl")
    for row in files:
        file = desk / "out" / row["path"]
        assert row["bytes"] == file.stat().st_size
        model.use(kronq.load(file, basis=tiny_hf))
        every = [score.nll for score in score_examples(model, asked)]
        assert all(min(abs(v - e) for e in every) < 1e-5 for v in row["question_nll"])
        total = sum(row["question_nll"]) / sum(row["question_tokens"])
        assert row["nll"] == pytest.approx(total, rel=1e-12)
        assert row["questions"] == 6
        assert row["accuracy"] == sum(row["question_right"]) / 6
        assert (row["shared_bytes"] > 0) == (row["label"] == "xs")


def test_a_study_is_taken_up_and_makes_only_what_is_new(command, desk, verb) -> None:
    config = re.sub("  (kron|xs): .*\n", "", CONFIG).replace("[0, 1]", "[0]")
    (desk / "study.yaml").write_text(config)
    planned = json.loads(verb(*command, "--dry-run", "--json").out)
    assert [(w["kind"], w["done"], w["left"]) for w in planned["work"]] == [
        ("scoring", 0, 4),
        ("training", 0, 1),
        ("quantizing", 0, 2),
    ]
    assert not (desk / "out").exists()
    verb(*command)
    before = contents(desk / "out")
    table = (desk / "out" / "table.parquet").read_bytes()
    (desk / "study.yaml").write_text(
        config.replace("bits: [4]", "bits: [4, 2]").replace("kron:", "#")
    )
    report = json.loads(verb(*command, "--json").out)
    after = contents(desk / "out")
    assert before.items() <= after.items()
    new = {file.parent.name for file in after.keys() - before.keys()}
    assert new == {"files", "scores"}
    assert len(report["cells"]) == 1 + 1 + 3
    for file in after.keys() - before.keys():
        file.unlink()
    (desk / "study.yaml").write_text(config)
    verb(*command)
    assert contents(desk / "out") == before
    assert (desk / "out" / "table.parquet").read_bytes() == table


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_study_killed_again_and_again_ends_as_one_that_never_was(command, desk) -> None:
    """In two processes; CPU times differ, and nothing else. Each is killed while it makes files."""
    out, rng = desk / "out", random.Random(0)  # noqa: S311
    python = [sys.executable, "-m", "kronq", *command, "--jobs", "2"]
    subprocess.run(python, check=True, capture_output=True)
    whole, files = made_of(out), len(contents(out))
    shutil.rmtree(out)
    killed = 0
    for more in [rng.randrange(1, files // 4) for _ in range(8)]:
        before = count_entries(out)
        with subprocess.Popen(
            python, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            while count_entries(out) < before + more and child.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            killed += child.poll() is None
            child.kill()
    assert killed >= 3
    subprocess.run(python, check=True, capture_output=True)
    assert made_of(out) == whole
    left = [
        file.name for file in out.rglob("*") if ".kronq-" in file.name or "checkpoint" in file.name
    ]
    assert left == []


def count_entries(folder: Path) -> int:
    """Counts files and folders, even while they are renamed, at which ``rglob`` fails."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def made_of(out: Path) -> list[dict[str, object]]:
    """Returns the table without times, and with the bytes of each file."""
    rows = pq.read_table(out / "table.parquet").to_pylist()
    for row in rows:
        for name in [name for name in row if name.endswith("seconds")]:
            del row[name]
        if (out / row["path"]).is_file():
            row["contents"] = (out / row["path"]).read_bytes()
    return rows


@pytest.mark.slow
def test_the_page_fetches_nothing_and_says_what_was_found(command, desk, verb) -> None:
    config = CONFIG.replace("  xs: {family: lora-xs, rank: 4}\n", "")
    pairs = "pairs: [{name: near, kron: kron, lora: lora}]\naccuracy: [base, trained]\n"
    (desk / "study.yaml").write_text(config.replace("steps: 6", "steps: 2") + pairs)
    report = verb(*command, "--json").json()
    page = (desk / "out" / "page.html").read_text("utf-8")
    assert len(report["contrasts"]) == 2
    assert {c["kron"] for c in report["contrasts"]} == {"kron"}
    assert all(f"{c['method']} {c['setting']}" in page for c in report["contrasts"])
    assert page.count("<svg") == 2
    assert not re.search(r"<script|@import|(src|href)=\"(?!#)", page)
    assert {(v["first"], v["second"]) for v in report["seed_variances"]} == {("lora", "kron")}
    files = [cell for cell in report["cells"] if cell["method"] == "native"]
    assert all(cell["accuracy"] is None for cell in files)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("rank: 4", "rank: 0"), "families.lora.rank"),
        (("bits: [4]", "bits: []"), "either bits or sizes"),
        (("steps: 6", "stepz: 6"), "training.stepz"),
        (("seeds: [0, 1]", "seeds: [0, 0]"), "a seed is given twice"),
        (("seeds: [0, 1]", "seeds: [0, 1"), "not YAML"),
        (("train: sums", "train: other"), "other.jsonl"),
    ],
)
def test_mistakes_are_one_line(change, told, command, desk, verb) -> None:
    (desk / "study.yaml").write_text(CONFIG.replace(*change))
    line = verb.refuses(*command)
    assert told in line
    assert not (desk / "out" / "trained").exists() or not any((desk / "out" / "trained").iterdir())


def test_another_folder_is_refused(command, desk, verb) -> None:
    (desk / "out").mkdir()
    (desk / "out" / "letter.txt").write_text("dear")
    assert "no study's folder" in verb.refuses(*command)
    assert [*(desk / "out").iterdir()] == [desk / "out" / "letter.txt"]
