"""The form pool: every row of a batch names its adapter, and equals it running alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.compiled.find import compiled_library
from kronq.errors import ArgumentError, KronqError, UnsupportedError
from kronq.genai.session import Session
from kronq.onnx.slots.kernel import PROGRAM
from kronq.onnx.slots.pool_inputs import POOL, ROWS, TAGS, pool_inputs
from kronq.onnx.slots.record import adapter_record
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter

try:
    compiled_library(PROGRAM)
except UnsupportedError as error:
    pytest.skip(str(error), allow_module_level=True)

FAMILIES = ("kron", "split", "full", "lora")
IDS = np.arange(10, 40)[None]


def adapters() -> list[kronq.Adapter]:
    made = [tiny_adapter(family, seed=i, rank=3 + i) for i, family in enumerate(FAMILIES)]
    packed = [kronq.quantize(one, bits=b) for one, b in zip(made, (8, 4, 3, 2), strict=True)]
    return [*made[:2], *packed]


@pytest.fixture(scope="module", params=["fp32", "fp32 fused whole", "int4", "fp16"])
def base(request: pytest.FixtureRequest, llama_bases: Path) -> Path:
    return llama_bases / request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    out = tmp_path_factory.mktemp("pool") / "out"
    report = kronq.export_onnx(tiny_adapter(), base, out, form="pool")
    assert report.form == "pool"
    assert report.verification is not None
    assert report.verification.model is not None  # against merged weights, or branches
    return out


def test_each_row_is_its_adapter_alone(folder: Path, base: Path, tmp_path: Path) -> None:
    some = adapters()
    records = [
        adapter_record(one, SlotSpec.read(folder).layers, tag=9 + i) for i, one in enumerate(some)
    ]
    places = np.cumsum([0, *map(len, records)]).tolist()
    rows = [(places[i], 9 + i) for i in range(len(some))]
    chosen = [rows[3], None, *rows, rows[0], rows[3]]
    session = Session(folder, device="cpu")
    pool = np.concatenate(records)
    found = session.logits(np.repeat(IDS, len(chosen), 0), extra=pool_inputs(pool, chosen))
    alone = Session(base, device="cpu").logits(IDS)
    for row, place in zip(found, chosen, strict=True):
        one = session.logits(IDS, extra=pool_inputs(pool, [place]))[0]
        np.testing.assert_allclose(row, one, atol=2e-5 * np.abs(one).max())  # of the base's MatMul
        assert (place is None) == np.array_equal(one, alone[0])
    if "fp32" in base.name:
        for i in (0, 4):
            kronq.export_onnx(some[i], base, tmp_path / str(i), form="merged", verify=False)
            expected = Session(tmp_path / str(i), device="cpu").logits(IDS)[0]
            assert np.abs(found[2 + i] - expected).max() <= 2e-5 * np.abs(expected).max()


def test_a_session_runs_with_one_adapter_for_all_rows(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    packed = kronq.quantize(tiny_adapter(size=0.4), bits=8)
    kronq.save(packed, tmp_path / "a.safetensors")
    write_onnx_adapter(packed, folder, tmp_path / "a.onnx_adapter")
    session = Session(folder, device="cpu", threads=1)
    for name in ("a.safetensors", "a.onnx_adapter"):
        session.load(name, tmp_path / name)
    places = pool_inputs(adapter_record(packed), [(0, 0)])
    expected = session.logits(IDS, extra=places)
    assert not np.array_equal(expected, session.logits(IDS))
    for name in session.adapters:
        assert np.array_equal(session.logits(IDS, adapter=name), expected)
    texts = [
        session.generate("abc", adapter=name, max_tokens=8).tokens for name in session.adapters
    ]
    assert texts[0] == texts[1]
    greedy, ids = [], session.tokenize("abc")
    for _ in range(4):
        logits = session.logits([*ids, *greedy], adapter="a.safetensors")
        greedy.append(int(logits[0, -1].argmax()))
    assert texts[0][:4] == tuple(greedy)
    batch = session.generate_batch(["abc", "de"], adapter="a.safetensors", max_tokens=4)
    assert batch[0].tokens == texts[0][:4]
    assert session.generate("abc", max_tokens=8).tokens != texts[0]


def test_a_row_of_another_adapter_is_an_error(folder: Path) -> None:
    session = Session(folder, device="cpu")
    record = adapter_record(tiny_adapter(), tag=3)
    for place, message in (((0, 4), "another adapter's record"), ((64, 3), "no adapter's record")):
        given = pool_inputs(record, [(0, 3), place])
        with pytest.raises(KronqError, match=f"kronq: row 1, byte .* of the pool: {message}"):
            session.logits(np.repeat(IDS, 2, 0), extra=given)
    given = pool_inputs(record, [(0, 3)])
    with pytest.raises(KronqError, match="kronq: the batch has other rows"):
        session.logits(np.repeat(IDS, 2, 0), extra=given)
    assert {POOL, ROWS, TAGS} <= session.inputs.keys()


def test_the_command_writes_either_operator(capsys, tiny_base: Path, tmp_path: Path) -> None:
    command = Kronq(capsys)
    kronq.save(kronq.quantize(tiny_adapter(), bits=8), tmp_path / "a.safetensors")
    for option, stacked in (("--kernel", False), ("--no-kernel", True)):
        out = tmp_path / option
        place = ["export", tmp_path / "a.safetensors", "--base", tiny_base, "-o", out]
        done = command(*place, "--form", "pool", "--no-verify", option)
        assert (done.code, done.err) == (0, "")
        assert "kronq chat" in done.out
        assert ("ONNX's own" in done.out) == stacked
        assert SlotSpec.read(out).stacked == stacked
    refused = command.refuses(*place, "--form", "pool", "--no-kernel", "--platform", "all")
    assert "platforms are of the compiled operator" in refused


def test_forms_are_named() -> None:
    assert kronq.Pooled(("linux-x64",)).platforms == ("linux-x64",)
    with pytest.raises(ArgumentError, match="no such platform"):
        kronq.Pooled("amiga")
