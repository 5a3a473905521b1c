"""Rows with adapters of their own: each text is that of its adapter alone, by the slots form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.soak import Soak
from kronq import Engine, Pool, Session, Slots, export_onnx
from kronq.errors import FormatError, MismatchError, NotFoundError, UnsupportedError
from kronq.model.adapter import Adapter, Origin
from kronq.pool.folder import make_pool
from tests.adapters import kron
from tests.engine.pool_app import (
    check_a_wrong_tag_ends_its_row_alone,
    export_app,
    has_operator,
    make_adapter,
    save_adapters,
)

pytestmark = pytest.mark.skipif(not has_operator(), reason="needs a C compiler")

PROMPTS = ["abc", "The quick brown fox", "x", "One is", "zz top"]


@pytest.fixture(scope="module")
def app(tiny_base, tmp_path_factory):
    return export_app(tiny_base, tmp_path_factory.mktemp("pool-rows") / "app")


@pytest.fixture(scope="module")
def pooled(tiny_base, tmp_path_factory):
    """The same in the form pool."""
    out = tmp_path_factory.mktemp("pool-form") / "app"
    export_onnx(make_adapter(0), tiny_base, out, "pool", verify=False)
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_adapters(tmp_path_factory.mktemp("pool-adapters") / "files")


@pytest.fixture(scope="module")
def alone(app, files):
    return Session(app, files, device="cpu", threads=1)


@pytest.fixture
def pool(tmp_path, files):
    make_pool(tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    for name, file in files.items():
        pool.add(name, file)
    return pool


def engine_of(app, pool, **settings):
    return Engine(app, pool=pool, **{"rows": 4, "chunk": 6, "threads": 1, **settings})


def test_every_row_is_its_adapter_alone(app, files, pool, alone):
    """Adapters of every kind, and the base, in one batch, joining and leaving."""
    pairs = list(itertools.product(PROMPTS, [None, *files]))
    np.random.default_rng(0).shuffle(pairs)
    prompts, names = zip(*pairs, strict=True)
    engine = engine_of(app, pool)
    found = engine.generate(prompts, adapters=names, max_tokens=9)
    expected = [alone.generate(p, adapter=n, max_tokens=9).tokens for p, n in pairs]
    assert [each.tokens for each in found] == expected
    assert len({each.tokens for each in found}) > len(pairs) / 2
    assert not pool._view.files.pinned


def test_the_form_pool_runs_as_it_is(pooled, files, pool, alone):
    """Also without a pool: the base alone."""
    names = [*files, None]
    for given, asked in ((pool, names), (None, [None])):
        found = engine_of(pooled, given).generate(
            ["abc"] * len(asked), adapters=asked, max_tokens=9
        )
        expected = [alone.generate("abc", adapter=name, max_tokens=9).tokens for name in asked]
        assert [each.tokens for each in found] == expected


def test_a_replaced_adapter_answers_to_the_end(app, files, pool, alone):
    """What began with the old one ends with it; what comes later gets the new one."""
    engine = engine_of(app, pool)
    name, other = "kron-native", "lora-native"
    old = engine.submit("abc", adapter=name, max_tokens=12)
    for _ in range(4):
        engine.step()
    pool.add(name, files[other], force=True)
    new = engine.submit("abc", adapter=name, max_tokens=12)
    pool.remove(other)
    while engine.step():
        pass
    assert old.generation.tokens == alone.generate("abc", adapter=name, max_tokens=12).tokens
    assert new.generation.tokens == alone.generate("abc", adapter=other, max_tokens=12).tokens
    assert old.adapter.digest != new.adapter.digest
    with pytest.raises(NotFoundError):
        engine.submit("abc", adapter=other)


def test_a_record_of_another_adapter_ends_its_row_alone(app, files, pool, alone):
    """The tag is not that of the record there, as after a mistake in a pool."""
    check_a_wrong_tag_ends_its_row_alone(engine_of(app, pool), alone)


def test_an_adapter_of_another_model_is_refused(app, pool):
    layers = {"model.layers.0.self_attn.o_proj": kron(np.random.default_rng(0), (4, 4), (16, 16))}
    pool.add("other", Adapter(layers, Origin("memory")))
    with pytest.raises(MismatchError, match="no slot for"):
        engine_of(app, pool).submit("abc", adapter="other")
    assert not pool._view.files.pinned


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.layers.0.self_attn.q_proj", (8, 8), "another shape"),
        ("model.layers.9.self_attn.q_proj", (16, 16), "no slot for"),
    ],
)
def test_layers_that_do_not_fit_are_refused(app, pool, name, shape, message):
    """One of them among others that fit."""
    more = {name: kron(np.random.default_rng(0), (4, 4), shape)}
    pool.add("other", Adapter({**make_adapter(3), **more}, Origin("memory")))
    with pytest.raises(MismatchError, match=message):
        engine_of(app, pool).submit("abc", adapter="other")


def test_a_damaged_record_is_refused(app, pool):
    entry = pool.find("kron-native")
    file = next(pool.path.glob("records-*"))
    with file.open("r+b") as stream:
        stream.seek(entry.offset + entry.size // 2)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(FormatError, match="damaged"):
        engine_of(app, pool).submit("abc", adapter="kron-native")
    assert engine_of(app, pool).generate(["abc"], adapters=["kron-float"], max_tokens=2)


def test_a_model_without_compiled_slots_takes_no_pool(tiny_base, tmp_path, pool):
    with pytest.raises(UnsupportedError, match="no slots for adapters"):
        engine_of(tiny_base, pool)
    export_onnx(make_adapter(0), tiny_base, tmp_path / "app", Slots(compiled=False), verify=False)
    with pytest.raises(UnsupportedError, match="compiled operators"):
        engine_of(tmp_path / "app", pool)


def test_random_joins_leaves_adds_replaces_and_removes(app, files, tmp_path):
    told = Soak(app, tmp_path / "pool", files, seed=0).run(1000, print)
    assert told.wrong == 0
    assert told.answers > 300
    assert min(told.added, told.replaced, told.removed, told.compacted, told.cancelled) > 0
    assert told.most >= 4
