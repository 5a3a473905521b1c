"""The form pool of ONNX's own operators: rows take their adapters from stacks of factors."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

from benchmarks.soak import Soak
from kronq import Engine, Pool, Pooled, Session, Slots, export_onnx, load
from kronq.errors import ArgumentError, KronqError, MismatchError, UnsupportedError
from kronq.model.adapter import Adapter, Origin
from kronq.onnx.slots.pool_inputs import STACK_TAGS, row_inputs
from kronq.onnx.slots.record import adapter_record
from kronq.onnx.slots.row_stacks import GroupStacks, record_factors, row_stacks
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.pool.folder import make_pool
from tests.adapters import kron
from tests.engine.pool_app import (
    check_a_wrong_tag_ends_its_row_alone,
    has_operator,
    make_adapter,
    save_adapters,
)

PROMPTS = ["abc", "The quick brown fox", "x", "One is", "zz top"]


@pytest.fixture(scope="module")
def app(tiny_base, tmp_path_factory):
    """Verified against the merged model when it is exported."""
    out = tmp_path_factory.mktemp("stacked") / "app"
    report = export_onnx(make_adapter(0), tiny_base, out, Pooled(compiled=False))
    assert report.verification.model is not None
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_adapters(tmp_path_factory.mktemp("stacked-adapters") / "files")


@pytest.fixture(scope="module")
def alone(tiny_base, files, tmp_path_factory):
    """The slots form, of one adapter at a time."""
    out = tmp_path_factory.mktemp("stacked-slots") / "app"
    export_onnx(make_adapter(0), tiny_base, out, Slots(compiled=False), verify=False)
    return Session(out, files, device="cpu", threads=1)


@pytest.fixture
def pool(tmp_path, files):
    make_pool(tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    for name, file in files.items():
        pool.add(name, file)
    return pool


def engine_of(app, pool, **settings):
    return Engine(app, pool=pool, **{"rows": 4, "chunk": 6, "threads": 1, **settings})


def test_the_graph_has_no_operators_of_its_own(app):
    """Its functions are of ONNX's operators and those of its base."""
    model = onnx.load(app / "model.onnx", load_external_data=False)
    own = {function.name for function in model.functions}
    used = {node.op_type for node in model.graph.node if node.domain == "kronq"}
    assert used
    assert used <= own
    assert all(node.domain == "" for function in model.functions for node in function.node)
    spec = SlotSpec.read(app)
    assert (spec.version, spec.kernel, spec.pool) == (4, None, True)


@pytest.mark.parametrize("rows", [1, 4])
def test_every_row_is_its_adapter_alone(app, files, pool, alone, rows):
    """Of every kind, Kronecker products beside LoRAs, and the base; more than there are places."""
    pairs = list(itertools.product(PROMPTS[: 2 + rows], [None, *files]))
    np.random.default_rng(0).shuffle(pairs)
    prompts, names = zip(*pairs, strict=True)
    found = engine_of(app, pool, rows=rows).generate(prompts, adapters=names, max_tokens=9)
    expected = [alone.generate(p, adapter=n, max_tokens=9).tokens for p, n in pairs]
    assert [each.tokens for each in found] == expected
    assert len({each.tokens for each in found}) > len(pairs) / 2
    assert not pool._view.files.pinned


def test_without_a_pool_it_is_the_base(app, alone):
    found = engine_of(app, None).generate(["abc"], max_tokens=9)
    assert found[0].tokens == alone.generate("abc", max_tokens=9).tokens


@pytest.mark.skipif(not has_operator(), reason="needs a C compiler")
@pytest.mark.parametrize("base", ["fp16", "int4 fused whole"])
def test_logits_are_those_of_the_compiled_operator(llama_bases, pool, files, tmp_path, base):
    """On bases of other types, and with layers fused, within the rounding of float32 or half."""
    found = {}
    for kind in (True, False):
        export_onnx(
            make_adapter(0), llama_bases / base, tmp_path / str(kind), Pooled(compiled=kind)
        )
        engine = engine_of(tmp_path / str(kind), pool, rows=8)
        adapters = engine._batch._adapters
        entries = [adapters.find(name) for name in files] + [None]
        decoder = engine._batch._decoder
        count = len(entries)
        found[kind] = decoder.decode([5] * count, [1] * count, adapters.inputs(entries))
    apart = np.abs(found[True].astype("f8") - found[False]).max() / np.abs(found[True]).max()
    assert apart < (5e-3 if base == "fp16" else 1e-5)
    assert len({row.tobytes() for row in found[False]}) == len(files) + 1


def test_a_record_of_another_adapter_ends_its_row_alone(app, pool, alone):
    check_a_wrong_tag_ends_its_row_alone(engine_of(app, pool), alone)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(0, 8), (1, 8)], "a row names another adapter than the one in its place"),
        ([(1, 7), (0, 8)], "a row names another adapter than the one in its place"),
        ([(0, 7), (0, 0)], "a row names another adapter than the one in its place"),
        ([(2, 7), None], "a row names another adapter than the one in its place"),
        ([(3, 7), None], "out of data bounds"),
        ([(-4, 7), None], "out of data bounds"),
        ([(2**40, 7), None], "out of data bounds"),
    ],
)
def test_the_graph_itself_refuses_another_adapter(app, places, message):
    """Whatever program gives it its inputs; without stacks every adapter is another."""
    spec = SlotSpec.read(app)
    adapters = [record_factors(adapter_record(make_adapter(i)), spec) for i in (1, 2)]
    stacks = {STACK_TAGS: np.array([7, 8, 0]), **row_stacks(adapters, spec)}
    decoder = engine_of(app, None)._batch._decoder
    base = decoder.decode([5, 5], [1, 1], row_inputs([None, None]))
    assert np.array_equal(base[0], base[1])
    with pytest.raises(KronqError, match=r"another adapter|out of data bounds"):
        decoder.decode([5, 5], [1, 1], row_inputs([(0, 7), None]))
    right = decoder.decode([5, 5], [1, 1], stacks | row_inputs([(0, 7), None]))
    assert np.abs(right[0] - base[0]).max() > 1e-3
    assert np.array_equal(right[1], base[1])
    with pytest.raises(KronqError, match=message):
        decoder.decode([5, 5], [1, 1], stacks | row_inputs(places))


def test_adapters_that_do_not_fit_are_refused(app, pool):
    layers = {"model.layers.0.self_attn.o_proj": kron(np.random.default_rng(0), (4, 4), (16, 16))}
    pool.add("other", Adapter(layers, Origin("memory")))
    with pytest.raises(MismatchError, match="no slot for"):
        engine_of(app, pool).submit("abc", adapter="other")


def test_a_session_runs_one_adapter_at_a_time(app, files, alone, tmp_path):
    """By onnxruntime-genai's and onnxruntime's own adapters: their files are stacks of one."""
    session = Session(app, files, device="cpu", threads=1)
    for name in (None, *files):
        found = session.generate("abc", adapter=name, max_tokens=9)
        assert found.tokens == alone.generate("abc", adapter=name, max_tokens=9).tokens
        ids = session.tokenize("abc")
        apart = session.logits(ids, adapter=name) - alone.logits(ids, adapter=name)
        assert np.abs(apart).max() < 1e-4


def test_platforms_are_of_the_compiled_operator():
    with pytest.raises(ArgumentError, match="compiled=False"):
        Pooled(compiled=False, platforms="all")


def test_no_compiler_falls_back_to_it(tiny_base, tmp_path, monkeypatch):
    def none(_):
        raise UnsupportedError("no C compiler")

    monkeypatch.setattr("kronq.onnx.slots.write_slots.find_libraries", none)
    with pytest.warns(match="open slots"):
        export_onnx(make_adapter(0), tiny_base, tmp_path / "app", "pool", verify=False)
    assert SlotSpec.read(tmp_path / "app").stacked
    with pytest.raises(UnsupportedError, match="no C compiler"):
        export_onnx(make_adapter(0), tiny_base, tmp_path / "no", Pooled(compiled=True))


def test_places_are_used_again(app, files):
    """Lower ranks and layers that are absent leave nothing of the adapter before."""
    spec = SlotSpec.read(app)
    few = {name: each for name, each in make_adapter(3).items() if "q_proj" in name}
    adapters = [make_adapter(1), make_adapter(2), Adapter(few, Origin("memory")), make_adapter(0)]
    factors = [record_factors(adapter_record(each), spec) for each in adapters]
    lora = record_factors(adapter_record(load(files["lora-float"])), spec)
    for group in spec.groups:
        stacks = GroupStacks(group, factors[:2], 2)
        assert stacks.put(0, factors[3])
        assert stacks.put(0, factors[2])
        expected = GroupStacks(group, [factors[2], factors[1]], 2).inputs
        assert all(np.array_equal(stacks.inputs[name], expected[name]) for name in expected)
        assert not stacks.put(1, lora)


@pytest.mark.slow
def test_random_joins_leaves_adds_replaces_and_removes(app, files, tmp_path):
    told = Soak(app, tmp_path / "pool", files, seed=0).run(1000, print)
    assert told.wrong == 0
    assert told.answers > 300
