"""Adapters that are loaded, swapped and unloaded in one open model."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import kronq
from kronq import Session
from kronq.cli import cli
from kronq.errors import (
    ArgumentError,
    FormatError,
    KronqError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
)
from kronq.genai import adapter_cache
from kronq.genai.adapter_cache import prepare_adapter
from kronq.genai.text_stream import TextStream
from kronq.io import checksummed
from kronq.io.cache import cache_folder
from kronq.io.checksummed import verify_trailer
from kronq.io.mapped_file import MappedFile
from kronq.model.adapter import Adapter, Origin
from kronq.onnx.forms import Slots
from kronq.onnx.slots.flatbuffer import InputStack
from kronq.onnx.slots.read_onnx_adapter import read_onnx_adapter
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.onnx.slots.write_onnx_adapter import write_inputs, write_onnx_adapter
from tests.adapters import kron, lora

pytest.importorskip("onnxruntime_genai")

IDS = [[5, 40, 41, 42]]


def adapter(seed: int, make=kron, rank: int = 4, **shape) -> Adapter:
    """For both layers' q_proj [64, 64] of the tiny llama, large enough to change its text."""
    rng = np.random.default_rng(seed)
    layers = {}
    for i in range(2):
        delta = make(rng, rank=rank, **shape)
        layers[f"model.layers.{i}.self_attn.q_proj"] = replace(delta, scale=0.1)
    return Adapter(layers, Origin("memory"))


KRON = {"a": (4, 4), "b": (16, 16)}
LORA = {"make": lora, "rows": 64, "cols": 64}


@pytest.fixture(scope="module")
def files(tiny_base, tmp_path_factory, kernel):
    """A model with slots, two packed adapters of different family and rank, a cache."""
    folder = tmp_path_factory.mktemp("slots")
    one, two = adapter(1, **KRON), adapter(2, rank=3, **LORA)
    kronq.export_onnx(one, tiny_base, folder / "model", form=Slots(compiled=kernel), verify=False)
    kronq.save(kronq.quantize(one, bits=8), folder / "one.safetensors")
    kronq.save(kronq.quantize(two, bits=8), folder / "two.safetensors")
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path, files):
    """A cache of its own, but for the compiled operator."""
    kernels = cache_folder("kernels")
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(kernels)
    return tmp_path / "cache" / "adapters"


@pytest.fixture
def session(files):
    named = {name: files / f"{name}.safetensors" for name in ("one", "two")}
    return Session(files / "model", named, device="cpu", threads=1)


def rss() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_logits_are_those_of_the_adapter_exported_alone(session, files, tiny_base, tmp_path):
    for name in ("one", "two"):
        packed = kronq.load(files / f"{name}.safetensors")
        kronq.export_onnx(packed, tiny_base, tmp_path / name, form="merged", verify=False)
        expected = Session(tmp_path / name).logits(IDS)
        np.testing.assert_allclose(session.logits(IDS, adapter=name), expected, atol=2e-5)
    base = Session(tiny_base).logits(IDS)
    np.testing.assert_array_equal(session.logits(IDS), base)
    assert abs(base - expected).max() > 1e-2


def test_onnxruntime_genai_computes_the_same(session, files):
    import onnxruntime_genai as og

    model = session._texts.model.genai
    for name in (None, "one", "two"):
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=8)
        generator = og.Generator(model, params)
        session.adapters.activate(generator, name)
        generator.append_tokens(np.array(IDS, np.int32))
        found = np.asarray(generator.get_logits()).reshape(-1)
        np.testing.assert_array_equal(found, session.logits(IDS, adapter=name)[0, -1])


def test_text_is_greedy_in_the_logits_of_its_adapter(session):
    for name in (None, "one", "two"):
        ids = session.tokenize("abc")
        for token in session.generate("abc", adapter=name, max_tokens=5).tokens:
            assert token == session.logits(ids, adapter=name)[0, -1].argmax()
            ids.append(token)


def test_a_thousand_swaps_change_nothing(session):
    first = {name: session.logits(IDS, adapter=name) for name in (None, "one", "two")}
    before = 0
    for turn in range(1000):
        name = (None, "one", "two")[turn % 3]
        assert np.array_equal(session.logits(IDS, adapter=name), first[name])
        if turn == 200:
            before = rss()
    assert rss() - before < 4 * 2**20


def test_loading_and_unloading_leak_no_memory(session, files):
    before = 0
    for turn in range(300):
        session.load("again", files / "one.safetensors")
        if turn % 50 == 0:
            session.generate("abc", adapter="again", max_tokens=1)
        session.unload("again")
        if turn == 100:
            before = rss()
    assert rss() - before < 4 * 2**20


def test_the_file_has_the_inputs_of_the_graph(files, tmp_path):
    packed = kronq.load(files / "one.safetensors")
    out = write_onnx_adapter(packed, files / "model", tmp_path / "one.onnx_adapter")
    expected = slot_inputs(packed, SlotSpec.read(files / "model"))
    found = read_onnx_adapter(out)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(KronqError, match="the output exists"):
        write_onnx_adapter(packed, files / "model", out)


def test_every_adapter_format_loads(session, files, tmp_path):
    packed = kronq.load(files / "one.safetensors")
    kronq.convert(packed, tmp_path / "peft", to="peft")
    write_onnx_adapter(packed, files / "model", tmp_path / "one.onnx_adapter")
    expected = session.logits(IDS, adapter="one")
    for name in ("peft", "one.onnx_adapter"):
        session.load(name, tmp_path / name)
        np.testing.assert_allclose(session.logits(IDS, adapter=name), expected, atol=1e-6)


def test_a_packed_file_is_expanded_once(session, files, cache):
    assert not session.adapters["one"].cached
    again = Session(files / "model", {"other": files / "one.safetensors"})
    assert again.adapters["other"].cached
    kept = again.adapters["other"].file
    assert kept.parent == cache
    kept.unlink()  # mapped by both sessions, who keep it
    kept.write_bytes(b"damaged")
    again.load("mended", files / "one.safetensors")
    np.testing.assert_array_equal(
        again.logits(IDS, adapter="mended"), session.logits(IDS, adapter="one")
    )


@pytest.mark.parametrize("hole", [slice(0, None), slice(64, 128), slice(-64, -16)])
def test_a_new_file_damaged_by_a_crash_is_written_again(session, files, hole):
    kept = session.adapters["one"].file
    data = bytearray(kept.read_bytes())
    data[hole] = bytes(len(data[hole]))
    kept.unlink()
    kept.write_bytes(data)
    assert not Session(files / "model", {"one": files / "one.safetensors"}).adapters["one"].cached
    again = Session(files / "model", {"one": files / "one.safetensors"})
    assert again.adapters["one"].cached
    np.testing.assert_array_equal(
        again.logits(IDS, adapter="one"), session.logits(IDS, adapter="one")
    )


def test_a_file_is_checked_once(session, files, monkeypatch):
    kept = session.adapters["one"].file
    assert verify_trailer(kept) == kept
    monkeypatch.delattr(checksummed, "_checksum")
    assert verify_trailer(kept) == kept
    with pytest.raises(FormatError):
        verify_trailer(files / "one.safetensors")
    with pytest.raises(FileNotFoundError):
        verify_trailer(files / "none")


def test_a_first_load_hashes_a_file_once(session, files, cache, monkeypatch):
    shutil.rmtree(cache)
    hashed = []
    feed = MappedFile.feed

    def count(self, state, first=0):
        hashed.append(len(self.data) - first)
        feed(self, state, first)

    monkeypatch.setattr(MappedFile, "feed", count)
    file = files / "one.safetensors"
    assert not prepare_adapter(file, session.adapters.slots).cached
    assert len(hashed) == 1
    assert prepare_adapter(file, session.adapters.slots).cached
    assert len(hashed) == 2
    assert file.stat().st_size - 128 < min(hashed)


def test_a_file_replaced_while_it_is_read_is_refused(session, files, tmp_path, monkeypatch):
    """Its key is of the old one: nothing else may be kept under it."""
    shutil.rmtree(tmp_path / "cache" / "adapters")
    file, slots = tmp_path / "it.safetensors", session.adapters.slots
    shutil.copyfile(files / "one.safetensors", file)
    key = adapter_cache._cache_key

    def replace_after(*arguments):
        found = key(*arguments)
        other = tmp_path / "other.safetensors"
        shutil.copyfile(files / "two.safetensors", other)
        other.replace(file)
        return found

    monkeypatch.setattr(adapter_cache, "_cache_key", replace_after)
    with pytest.raises(FormatError, match="another file was put in its place"):
        prepare_adapter(file, slots)


def test_without_a_writable_cache_a_temporary_file_is_used(session, files, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "file"))
    other = Session(files / "model", {"one": files / "one.safetensors"})
    expected = session.logits(IDS, adapter="one")
    np.testing.assert_array_equal(other.logits(IDS, adapter="one"), expected)


def test_adapters_that_are_refused(session, files, tiny_base, tmp_path):
    with pytest.raises(KronqError, match="no such adapter; found 'x'; expected one of: one, two"):
        session.generate("abc", adapter="x")
    with pytest.raises(KronqError, match="no such adapter"):
        session.logits(IDS, adapter="x")
    with pytest.raises(NotFoundError, match="x: no such file or folder"):
        session.load("x", tmp_path / "x")
    with pytest.raises(KronqError, match="is loaded"):
        session.load("one", files / "two.safetensors")
    with pytest.raises(UnsupportedError, match='form="slots"'):
        Session(tiny_base, {"one": files / "one.safetensors"})
    kronq.save(kronq.quantize(adapter(3, make=lora), bits=8), tmp_path / "odd.safetensors")
    with pytest.raises(MismatchError):
        session.load("odd", tmp_path / "odd.safetensors")
    (tmp_path / "bad.onnx_adapter").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"not an \.onnx_adapter"):
        session.load("bad", tmp_path / "bad.onnx_adapter")
    session.unload("one")
    assert list(session.adapters) == ["two"]


def test_onnx_adapters_of_strangers_are_refused(session, files, tmp_path):
    """NaN ran through, and inputs that were not there were the base's."""
    spec = SlotSpec.read(files / "model")
    good = slot_inputs(kronq.load(files / "one.safetensors"), spec)
    path = tmp_path / "x.onnx_adapter"

    def write(arrays):
        stacks = [InputStack([n], a.shape, a.dtype, lambda a=a: [a]) for n, a in arrays.items()]
        write_inputs(stacks, path)

    write(good)
    session.load("good", path)
    name = next(name for name, array in good.items() if array.dtype != np.int64)
    bad = {name: np.array(array) for name, array in good.items()}
    values = bad[name].reshape(-1)
    at = 0
    if values.dtype == np.uint8:  # a scale: behind the head of the first layer's part
        at = int(values[72:80].view("<u8")[0]) + 32
    values[at : at + 4 // values.itemsize] = np.float32([np.nan]).view(values.dtype)
    write(bad)
    with pytest.raises(FormatError, match="values that are not finite"):
        session.load("nan", path)
    if len(good) > 1:
        write({other: array for other, array in good.items() if other != name})
        with pytest.raises(MismatchError, match="1 inputs too few, as"):
            session.load("short", path)
    write(good | {"y": np.zeros(3, np.float32)})
    with pytest.raises(MismatchError, match="1 inputs that this one does not have, as y"):
        session.load("long", path)
    assert list(session.adapters) == ["one", "two", "good"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"adapter": ["one"]},
        {"adapter": 1},
        {"stop": 3},
        {"stop": [3]},
        {"max_tokens": "5"},
        {"temperature": "hot"},
        {"temperature": 1.0, "top_p": "x"},
        {"temperature": 1.0, "top_k": 1.5},
        {"temperature": 1.0, "seed": "x"},
    ],
)
def test_arguments_of_wrong_types(session, arguments):
    with pytest.raises(ArgumentError, match="wrong type"):
        session.generate("abc", **arguments)
    with pytest.raises(ArgumentError, match="wrong type"):
        session.generate_batch(["abc", "d"], **arguments)


def test_other_arguments_of_wrong_types(session, files):
    for call in (
        lambda: session.logits(IDS, adapter=["one"]),
        lambda: session.unload(["one"]),
        lambda: session.load(["x"], files / "one.safetensors"),
        lambda: session.generate(3),
        lambda: session.generate_batch(3),
        lambda: session.generate_batch([3]),
    ):
        with pytest.raises(ArgumentError, match="wrong type"):
            call()
    assert ["one"] not in session.adapters


def test_options_keep_their_adapter(session):
    """An adapter that is unloaded while a run uses it stays until the run ends."""
    expected = session.logits(IDS, adapter="one")
    options = session.adapters.run_options("one")
    unloaded = weakref.ref(session.adapters["one"])
    session.unload("one")
    gc.collect()
    assert unloaded() is None
    found = session._arrays.logits(IDS, None, {}, options)
    np.testing.assert_array_equal(found, expected)


def test_threads_run_while_another_unloads_and_loads(session, files):
    expected = {name: session.logits(IDS, adapter=name) for name in ("one", "two")}
    text = session.generate("abc", adapter="one", max_tokens=4).tokens
    end = threading.Event()
    refused, in_use = [], []

    def run(turn: int) -> int:
        done = 0
        while not end.is_set() or done == 0:
            try:
                if turn % 2:
                    found = session.generate("abc", adapter="one", max_tokens=4).tokens
                    assert found == text
                else:
                    found = session.logits(IDS, adapter="one")
                    np.testing.assert_array_equal(found, expected["one"])
            except KronqError as error:
                refused.append(str(error))
                continue
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run, turn) for turn in range(4)]
        for _ in range(40):
            try:
                session.unload("one")
            except KronqError as error:
                in_use.append(str(error))
            else:
                session.load("one", files / "one.safetensors")
        end.set()
        assert all(each.result(timeout=60) for each in runs)
    assert all("in use" in error for error in in_use)
    assert {error.split(";")[0] for error in refused} <= {"no such adapter"}
    np.testing.assert_array_equal(session.logits(IDS, adapter="one"), expected["one"])


def test_several_prompts_at_once(session):
    prompts = ["abc", "a", "The longest of them"]
    alone = [session.generate(p, adapter="one", max_tokens=5).tokens for p in prompts]
    together = session.generate_batch(prompts, adapter="one", max_tokens=5)
    assert [text.tokens for text in together] == alone


@pytest.mark.parametrize(
    ("stop", "pieces"),
    [((), "a bc\nd"), (("\n",), "a bc"), (("c\nx", "\nd"), "a bc"), (("bc\n",), "a ")],
)
def test_a_stop_string_is_never_shown(stop, pieces):
    shown: list[str] = []
    text = TextStream(SimpleNamespace(decode=chr), {0}, stop, shown.append)
    for letter in "a bc\nd\0":
        if text.stopped is None:
            text.add(ord(letter))
    assert text.text == "".join(shown) == pieces
    assert text.stopped == ("stop" if stop else "eos")


def test_a_stop_string_ends_a_text(session):
    uncut = session.generate("abc", max_tokens=12)
    visible = next(c for c in uncut.text if c.isprintable())
    cut = session.generate("abc", max_tokens=12, stop=visible)
    assert (cut.text, cut.stopped) == (uncut.text[: uncut.text.index(visible)], "stop")


TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"


def test_chat_remembers_swaps_and_forgets(files, tmp_path):
    folder = shutil.copytree(files / "model", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    said = "a\n/adapter none\na\n/reset\na\n/adapter x\n/nothing\n/quit\nunread\n"
    arguments = ["chat", str(folder), "--adapter", f"arc={files / 'one.safetensors'}"]
    result = CliRunner().invoke(cli, [*arguments, "--max-tokens", "2"], input=said)
    assert result.exit_code == 0, result.output
    session = Session(folder, {"arc": files / "one.safetensors"})
    talk = [{"role": "user", "content": "a"}]
    first = session.generate(talk, adapter="arc", max_tokens=2).text
    base = session.generate(talk, max_tokens=2).text
    then = [*talk, {"role": "assistant", "content": first}, *talk]
    second = session.generate(then, max_tokens=2).text
    assert result.stdout == f"{first}\n{second}\n{base}\n"
    assert "no adapter x" in result.stderr
    assert "no such command: /nothing" in result.stderr


def test_run_and_convert_from_the_shell(files, session, tmp_path):
    out = tmp_path / "one.onnx_adapter"
    converted = CliRunner().invoke(
        cli,
        f"convert {files}/one.safetensors --to onnx_adapter --model {files}/model -o {out}".split(),
    )
    assert converted.exit_code == 0
    assert f"{out.stat().st_size:,} bytes" in converted.stdout
    arguments = ["run", str(files / "model"), "--adapter", str(out), "--prompt", "abc"]
    result = CliRunner().invoke(cli, [*arguments, "--max-tokens", "5"])
    assert result.stdout == session.generate("abc", adapter="one", max_tokens=5).text + "\n"
