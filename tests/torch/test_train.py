"""``kronq train``: the loss falls, what is stopped goes on, and adapters are read back."""

import copy
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

import kronq
import kronq.torch
from kronq import AdapterShape
from kronq.calibration.batches import TokenSequence, pad_sequences
from kronq.calibration.torch_model import load_model
from kronq.io.files import write_file
from kronq.io.tensor_writer import tensor_bytes
from kronq.torch import TrainingSettings, train
from kronq.torch.training import steps as steps_module
from kronq.torch.training.checkpoint import CheckpointFile
from kronq.torch.training.rows import choose_rows
from kronq.torch.training.text_batches import TextBatches, encode_answers
from tests.cli.command import Kronq

QUESTIONS = [
    {"question": f"{n} and {n}", "choices": ["none", str(2 * n)], "answer": 1} for n in range(9)
]


@pytest.fixture
def data(tmp_path) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return file


@pytest.fixture
def verb(capsys) -> Kronq:
    return Kronq(capsys)


def settings(family: str = "lokr", **others) -> TrainingSettings:
    given = {"steps": 25, "batch": 4, "rate": 0.02} | others
    return TrainingSettings(AdapterShape(family, 2, b_out=24), **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def logits(model) -> torch.Tensor:
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("family", ["lora", "lokr"])
def test_peft_runs_what_was_trained(family, tiny_hf, data, tmp_path) -> None:
    out = tmp_path / "out"
    trained = train(tiny_hf, data, out, settings(family, steps=40))
    losses = json.loads((out / "train.json").read_text())["losses"]
    # The frozen output embedding is small: no hidden state gives less than about 4.5 nats.
    assert trained.last_loss < losses[0] - 0.5
    adapted = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert {*contents(out)} == {".kronq", "loss.svg", "train.json", *adapted}
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf)
    mine = copy.deepcopy(base)
    adapter = kronq.load(out)
    kronq.torch.adapt_linears(mine, settings(family).shape)
    kronq.torch.read_factors(mine, adapter)
    peft = PeftModel.from_pretrained(base, out)
    torch.testing.assert_close(logits(mine), logits(peft), rtol=1e-4, atol=1e-5)
    assert adapter.parameters == trained.parameters


def test_the_papers_shapes_are_factors_that_kronq_reads(tiny_hf, data, tmp_path) -> None:
    """Some of the tiny llama's layers are cropped: no PEFT tuner has such shapes."""
    shape = AdapterShape("kron", 2, a_in=3, b_out=30)
    given = TrainingSettings(shape, steps=3, batch=2, alpha=6)
    trained = train(tiny_hf, data, tmp_path / "out", given)
    adapter = kronq.load(trained.path)
    assert any(delta.shape != delta.full_shape for delta in adapter.values())
    assert {delta.scale for delta in adapter.values()} == {3.0}
    model, _ = load_model(tiny_hf)
    kronq.torch.adapt_linears(model, shape)
    kronq.torch.read_factors(model, adapter)
    assert len(adapter) == 14


def test_lora_xs_is_its_own_folder_and_becomes_r_alone(tiny_hf, data, tmp_path) -> None:
    out = tmp_path / "out"
    shape = AdapterShape("lora-xs", 4)
    trained = train(tiny_hf, data, out, TrainingSettings(shape, steps=40, batch=4, rate=0.05))
    losses = json.loads((out / "train.json").read_text())["losses"]
    assert trained.last_loss < losses[0] - 0.3
    assert trained.parameters == 14 * 4 * 4
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_hf)
    mine = copy.deepcopy(base)
    adapter = kronq.load(out)  # a LoRA, with the bases that lie in the folder
    merge(base, adapter)
    cores = kronq.extract_cores(adapter, tiny_hf)
    assert cores.bases is not None
    assert len(cores.bases.layers) == 14
    kronq.torch.adapt_linears(mine, shape, base=tiny_hf)
    kronq.torch.read_factors(mine, cores)
    torch.testing.assert_close(logits(mine), logits(base), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(mine), logits(load_model(tiny_hf)[0]), atol=1e-2)
    file = tmp_path / "small.safetensors"
    kronq.save(kronq.quantize(cores, kronq.Float16()), file)
    again = kronq.load(file, basis=tiny_hf)
    for name in adapter:
        found, wanted = again[name].dense(), adapter[name].dense()
        assert np.linalg.norm(found - wanted) <= 1e-3 * np.linalg.norm(wanted)


def merge(model, adapter: kronq.Adapter) -> None:
    """Adds ΔW to the weights, multiplied out."""
    for name, delta in adapter.items():
        weight = model.get_submodule(name).weight
        weight.data += torch.from_numpy(delta.dense()).to(weight)


def test_the_recipe_is_that_of_the_trainer_of_transformers(tiny_hf, data) -> None:
    """Torch's and transformers' own parts, with logits everywhere, as examples/train.py."""
    given = settings(steps=8, warmup=3)
    model, tokenize = load_model(tiny_hf)
    torch.manual_seed(0)
    kronq.torch.adapt_linears(model, given.shape)
    other = copy.deepcopy(model)
    sequences = encode_answers(kronq.read_examples(data), tokenize, 512)
    batches = TextBatches(sequences, given.batch, 0)
    nowhere = CheckpointFile(Path("nowhere.safetensors"), "")
    make_rows = choose_rows(model, sequences)
    history, _ = steps_module.run_steps(model, batches, make_rows, given, nowhere)

    parameters = [p for p in other.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=given.rate, weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 3, 8)
    for step in range(8):
        batch = pad_sequences(batches[step])
        labels = torch.from_numpy(np.where(batch.answers, batch.ids, -100))
        ids, mask = torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)
        loss = other(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        assert history.losses[step] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize(("dropout", "target"), [(0.0, None), (0.3, None), (0.0, "1500B")])
def test_a_training_that_was_stopped_ends_with_the_same_bytes(
    dropout, target, tiny_hf, data, tmp_path
) -> None:
    given = settings(steps=15, dropout=dropout, target=target)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(tiny_hf, data, tmp_path / "a" / "out", given)

    def stop(done: int, total: int, loss: float) -> None:
        if done == 13:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        train(tiny_hf, data, tmp_path / "b" / "out", given, follow=stop)
    left = [file.name for file in (tmp_path / "b").iterdir()]
    assert left == ["out.checkpoint.safetensors"]
    trained = train(tiny_hf, data, tmp_path / "b" / "out", given)
    assert trained.resumed == 10
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from kronq.torch.training import checkpoint
save = checkpoint.CheckpointFile.save
def save_and_die(self, parameters, optimizer, history):
    save(self, parameters, optimizer, history)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.CheckpointFile.save = save_and_die
from kronq.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_command_goes_on(verb, tiny_hf, data, tmp_path) -> None:
    recipe = ["--rank", 2, "--steps", 15, "--batch", 2, "--seed", 3]
    (tmp_path / "b").mkdir()
    args = ["train", tiny_hf, data, "-o", tmp_path / "b" / "out", *recipe]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, args)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    resumed = verb(*args)
    assert (resumed.code, "went on from step 10" in resumed.out) == (0, True)
    (tmp_path / "a").mkdir()
    assert verb("train", tiny_hf, data, "-o", tmp_path / "a" / "out", *recipe).code == 0
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["out"]


def test_another_seed_gives_another_adapter(tiny_hf, data, tmp_path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        train(tiny_hf, data, tmp_path / name, settings(steps=2, seed=seed))
    files = [(tmp_path / n / "adapter_model.safetensors").read_bytes() for n in "ab"]
    assert files[0] != files[1]


def test_the_command_says_what_it_did(verb, tiny_hf, data, tmp_path) -> None:
    out = tmp_path / "out"
    args = ("train", tiny_hf, data, "-o", out, "--steps", 3, "--rank", 2, "--family", "rslora")
    told = verb(*args, "--json").json()
    assert (told["steps"], told["layers"], told["resumed"]) == (3, 14, 0)
    config = json.loads((out / "train.json").read_text())
    assert config["settings"]["scale"] == pytest.approx(2.0 * 2)
    assert config["settings"]["rate"] == 1e-3
    assert len(config["losses"]) == 3
    assert next(iter(kronq.load(out).values())).scale == pytest.approx(4.0)
    assert "the output exists" in verb.refuses(*args)
    assert verb(*args, "--force").code == 0


def test_plain_text_and_the_end_of_answers(tiny_hf, tmp_path) -> None:
    _, tokenize = load_model(tiny_hf)
    text = tmp_path / "notes.txt"
    text.write_text("A first paragraph.\n\nAnother one, of more words than the first.")
    rows = encode_answers(kronq.read_examples(text), tokenize, 16, end=1)
    assert [len(row.ids) for row in rows] == [15, 4, 15, 15, 13]
    assert [row.ids[-1] == 1 for row in rows] == [False, True, False, False, True]


def ids_of(batch) -> list[tuple[int, ...]]:
    return [sequence.ids for sequence in batch]


def test_every_sequence_is_read_once_before_any_is_again() -> None:
    sequences = [TokenSequence((n, 7), 1) for n in range(5)]
    batches = TextBatches(sequences, 3, seed=1)
    read = [int(row[0]) for step in range(5) for row in ids_of(batches[step])]
    for first in (0, 5, 10):
        assert sorted(read[first : first + 5]) == [0, 1, 2, 3, 4]
    assert read[:5] != read[5:10]
    assert [int(row[0]) for row in ids_of(batches[1])] == read[3:6]


def test_mistakes_are_one_line(verb, tiny_hf, data, tmp_path) -> None:
    out = tmp_path / "out"

    def refused(*args: object, of: object = data) -> str:
        line = verb.refuses("train", tiny_hf, of, "-o", out, *args)
        assert not out.exists()
        return line

    assert "no such" in refused(of=tmp_path / "nothing.jsonl")
    assert "no linear layer" in refused("--only", "nowhere")
    assert "--rate" in refused("--rate", 1e30, "--steps", 5, "--warmup", 0)
    assert "shorter than the training" in refused("--steps", 2, "--warmup", 2)
    assert "steps is at least 1" in refused("--steps", 0)
    assert "no config.json" in verb.refuses("train", tmp_path, data, "-o", out)
    assert "a rank that LoRA-XS cannot have" in refused("--family", "lora-xs", "--rank", 65)


def test_a_checkpoint_of_another_training_is_not_taken(verb, tiny_hf, data, tmp_path) -> None:
    out, file = tmp_path / "out", tmp_path / "out.checkpoint.safetensors"
    args = ("train", tiny_hf, data, "-o", out, "--steps", 2)
    file.write_bytes(b"nothing")
    assert file.name in verb.refuses(*args)
    file.unlink()
    write_file(file, tensor_bytes({}, {"identity": "another"}))
    assert "of another training" in verb.refuses(*args)
    assert file.exists()
    assert verb(*args, "--force").code == 0
    assert not file.exists()
