"""The compiled operator alone, against numpy: any shape, any tokens, and damaged bytes."""

from __future__ import annotations

import ctypes
import math
import sys

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from onnx import GraphProto, TensorProto, helper

from kronq.compiled.find import compiled_library
from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float, Matrix, Quantized
from kronq.onnx.slots.kernel import PROGRAM, TRUST, verified_library
from kronq.onnx.slots.record import adapter_record, layer_id
from kronq.onnx.slots.record.layout import NO_ADAPTER
from tests.adapters import dense
from tests.fuzzing import max_examples

try:
    LIBRARY = compiled_library(PROGRAM)
except UnsupportedError as error:
    pytest.skip(str(error), allow_module_level=True)

Member3 = tuple[int, int, int]
INTS, FLOATS = [2, 3, 4, 5, 6, 7, 8], ["float16", "bfloat16", "float32"]


def session(
    d_in: int,
    d_outs: list[int],
    *,
    fused: bool = False,
    threads: int = 1,
    pool: bool = False,
    rank: int = 3,
    dtype: str = "float32",
) -> ort.InferenceSession:
    """One operator: its layers' outputs apart, or side by side in one."""
    widths = [sum(d_outs)] if fused else d_outs
    names = [f"y{i}" for i in range(len(widths))]
    more = ["pool", "rows", "tags"] if pool else ["p"]
    ids = np.array([layer_id(f"l{i}") for i in range(len(d_outs))], np.uint64).view(np.int64)
    node = helper.make_node(
        f"{'PoolSlots' if pool else 'RecordSlots'}_{len(widths)}"
        + ("" if dtype == "float32" else f"_{dtype}"),
        ["x", *names, *more],
        [f"z{i}" for i in range(len(widths))],
        domain="kronq",
        d_in=d_in,
        layer=ids.tolist(),
        target=[0] * len(d_outs) if fused else list(range(len(d_outs))),
        start=np.cumsum([0, *d_outs])[:-1].tolist() if fused else [0] * len(d_outs),
        d_out=d_outs,
    )
    tensor, free = helper.make_tensor_value_info, [None] * rank
    number = getattr(TensorProto, dtype.upper().replace("FLOAT32", "FLOAT"))
    bytes_ = [tensor(more[0], TensorProto.UINT8, [None])]
    graph = helper.make_graph(
        [node],
        "one",
        [tensor(n, number, free) for n in ("x", *names)]
        + bytes_
        + [tensor(n, TensorProto.INT64, [None]) for n in more[1:]],
        [tensor(f"z{i}", number, free) for i in range(len(widths))],
    )
    return opened(graph, threads)


def opened(graph: GraphProto, threads: int = 1) -> ort.InferenceSession:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("kronq", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(LIBRARY))
    return ort.InferenceSession(model.SerializeToString(), options)


def factor(rng: np.random.Generator, kind: int | str, rows: int, cols: int, axis: int) -> Matrix:
    """Codes with a scale for each component, or floats."""
    if isinstance(kind, str):
        dtype = bfloat16 if kind == "bfloat16" else kind
        return Float(rng.normal(size=(rows, cols)).astype(dtype))
    codes = rng.integers(-(1 << kind - 1), 1 << kind - 1, (rows, cols)).astype(np.int8)
    scale = rng.uniform(0.5, 2, size=(rows, cols)[axis]).astype(np.float16) / (1 << kind - 1)
    return Quantized(codes, scale.astype(np.float16), kind, axis)


def delta(rng, a_in: int, b_in: int, member: Member3, kinds=("float32", "float32")) -> Delta:
    a_out, b_out, rank = member
    b1, b2 = factor(rng, kinds[0], b_out, rank, 1), factor(rng, kinds[1], rank, b_in, 0)
    a = Float(rng.normal(size=(a_out, a_in)).astype(np.float32))
    return Delta.uncropped(Product(a), Product(b1, b2), 1.5)


def adapter(rng, cut: tuple[int, int], members: list[Member3], kinds=None) -> Adapter:
    """An adapter of the members that have a rank, and of a layer that the graph does not have."""
    kinds = kinds or [("float32", "float32")] * len(members)
    layers = {
        f"l{i}": delta(rng, *cut, member, kind)
        for i, (member, kind) in enumerate(zip(members, kinds, strict=True))
        if member[2]
    }
    return Adapter(layers | {"other": delta(rng, 2, 3, (3, 2, 2))})


def dense_of(whole: Adapter, members: list[Member3], d_in: int) -> np.ndarray:
    parts = [
        dense(whole[f"l{i}"]).T if f"l{i}" in whole else np.zeros((d_in, a * b))
        for i, (a, b, _) in enumerate(members)
    ]
    return np.concatenate(parts, axis=-1)


def inputs(rng, shape: tuple[int, ...], d_in: int, widths: list[int]) -> dict[str, np.ndarray]:
    sizes = {"x": d_in, **{f"y{i}": width for i, width in enumerate(widths)}}
    return {n: rng.normal(size=(*shape, w)).astype(np.float32) for n, w in sizes.items()}


sizes = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 30])
ranks = st.sampled_from([0, 1, 3, 7, 8, 9, 16, 20, 70])
kinds = st.sampled_from([*INTS, *FLOATS])


@max_examples(120)
@given(
    st.tuples(sizes, sizes),
    st.lists(st.tuples(st.tuples(sizes, sizes, ranks), kinds, kinds), min_size=1, max_size=4),
    st.sampled_from([0, 1, 2, 5, 33, 100]),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_it_adds_the_kronecker_product(cut, members, tokens, fused, threads) -> None:
    rng = np.random.default_rng(0)
    shapes = [shape for shape, _, _ in members]
    whole = adapter(rng, cut, shapes, [(b1, b2) for _, b1, b2 in members])
    d_in, d_outs = cut[0] * cut[1], [a * b for a, b, _ in shapes]
    widths = [sum(d_outs)] if fused else d_outs
    feeds = inputs(rng, (1, tokens), d_in, widths)
    run = session(d_in, d_outs, fused=fused, threads=threads).run
    packed = adapter_record(whole)
    found = np.concatenate(run(None, {**feeds, "p": packed}), axis=-1)
    before = np.concatenate([feeds[f"y{i}"] for i in range(len(widths))], axis=-1)
    expected = before + feeds["x"].astype(np.float64) @ dense_of(whole, shapes, d_in)
    assert np.abs(found - expected).max(initial=0) <= 1e-5 * np.abs(expected).max(initial=1)
    assert np.array_equal(np.concatenate(run(None, {**feeds, "p": packed}), axis=-1), found)
    assert np.array_equal(np.concatenate(run(None, {**feeds, "p": NO_ADAPTER}), axis=-1), before)


def test_a_token_that_does_not_fit_the_stack() -> None:
    rng = np.random.default_rng(0)
    members = [(64, 2, 70), (3, 5, 500)]
    whole = adapter(rng, (64, 3), members, [(4, 3), (8, 5)])
    feeds = inputs(rng, (1, 9), 192, [128, 15])
    found = session(192, [128, 15], threads=2).run(None, {**feeds, "p": adapter_record(whole)})
    expected = feeds["x"].astype(np.float64) @ dense_of(whole, members, 192)
    for z, y, sums in zip(found, ("y0", "y1"), np.split(expected, [128], axis=-1), strict=True):
        assert np.abs(z - feeds[y] - sums).max() <= 1e-5 * np.abs(sums).max()


@pytest.mark.parametrize(("a_in", "b_in"), [(3, 7), (3, 17), (3, 500), (1, 19), (1, 501)])
def test_the_same_codes_give_the_same_bits_in_every_type(a_in: int, b_in: int) -> None:
    """Beside other tokens, and alone, where codes become floats in registers."""
    rng = np.random.default_rng(0)
    members = [(2, 31, 9), (1, 62, 250), (1, 62, 11)]
    codes = {
        f"l{i}": [rng.integers(-2, 2, s).astype(np.int8) for s in ((b_out, rank), (rank, b_in))]
        for i, (_, b_out, rank) in enumerate(members)
    }
    a = {
        f"l{i}": Float(rng.normal(size=(m[0], a_in)).astype(np.float32))
        for i, m in enumerate(members)
    }
    feeds = inputs(rng, (1, 3), a_in * b_in, [62, 62, 62])
    run = session(a_in * b_in, [62, 62, 62]).run

    def results(as_matrix) -> np.ndarray:
        layers = {
            name: Delta.uncropped(Product(a[name]), Product(*map(as_matrix, pair, (1, 0))), 1.0)
            for name, pair in codes.items()
        }
        record = adapter_record(Adapter(layers))
        found = np.stack(run(None, {**feeds, "p": record}))
        for i in range(3):
            alone = {name: value[:, i : i + 1] for name, value in feeds.items()}
            assert np.array_equal(run(None, {**alone, "p": record}), found[:, :, i : i + 1])
        return found

    exact = results(lambda matrix, _: Float(matrix.astype(np.float32)))
    for dtype in (np.float16, bfloat16):
        assert np.array_equal(results(lambda m, _, to=dtype: Float(m.astype(to))), exact)
    for bits in INTS:
        assert np.array_equal(results(lambda m, axis, b=bits: Quantized(m, None, b, axis)), exact)


@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_mixed_batch_is_its_rows_bit_for_bit(tokens: int, threads: int) -> None:
    rng = np.random.default_rng(0)
    some = [(4, 6), (2, 12), (1, 24)]
    members = [[(2, 8, 3), (4, 4, 2)], [(1, 16, 9), (2, 8, 0)], [(16, 1, 4), (1, 16, 8)]]
    kinds = [[(4, 8), (3, 2)], [("float32", 5), (8, 8)], [("float16", "bfloat16"), (4, 4)]]
    adapters = [adapter(rng, *each) for each in zip(some, members, kinds, strict=True)]
    records = [adapter_record(each, tag=7 + i) for i, each in enumerate(adapters)]
    pool = np.concatenate([rng.integers(0, 255, 64).astype(np.uint8), *records])
    places = np.cumsum([64, *map(len, records)])
    chosen = [2, 0, None, 1, 0, 0, 2, None]
    rows = np.array([-1 if i is None else places[i] for i in chosen])
    tags = np.array([0 if i is None else 7 + i for i in chosen])
    feeds = inputs(rng, (len(chosen), tokens), 24, [16, 16])
    alone, mixed = session(24, [16, 16]), session(24, [16, 16], pool=True, threads=threads)
    found = mixed.run(None, {**feeds, "pool": pool, "rows": rows, "tags": tags})
    for i, own in enumerate(chosen):
        one = {name: value[i : i + 1] for name, value in feeds.items()}
        packed = NO_ADAPTER if own is None else records[own].copy()
        if own is not None:
            packed[24:32] = 0  # its tag
        for z, expected in zip(found, alone.run(None, {**one, "p": packed}), strict=True):
            assert np.array_equal(z[i : i + 1], expected)
        at = {"pool": pool, "rows": rows[i : i + 1], "tags": tags[i : i + 1]}
        for z, expected in zip(found, mixed.run(None, {**one, **at}), strict=True):
            assert np.array_equal(z[i : i + 1], expected)
    # the rows' tokens one after the other, as packed prompts are: each names its record
    flat = {name: value.reshape(1, -1, value.shape[-1]) for name, value in feeds.items()}
    at = {"rows": np.repeat(rows, tokens), "tags": np.repeat(tags, tokens)}
    for z, expected in zip(mixed.run(None, {**flat, "pool": pool, **at}), found, strict=True):
        assert np.array_equal(z.reshape(expected.shape), expected)
    # two dimensions: all rows' tokens below one another
    flat = {name: value.reshape(-1, value.shape[-1]) for name, value in feeds.items()}
    flat_session = session(24, [16, 16], pool=True, rank=2)
    at = {"pool": pool, "rows": rows, "tags": tags}
    for z, expected in zip(flat_session.run(None, {**flat, **at}), found, strict=True):
        assert np.array_equal(z.reshape(expected.shape), expected)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("tokens", [1, 70])
def test_half_precision_is_rounded_once(dtype: str, tokens: int, pool: bool) -> None:
    rng = np.random.default_rng(0)
    members = [(2, 9, 9), (3, 6, 4), (2, 7, 3)]
    whole = adapter(rng, (4, 6), members, [(4, 8), (8, 3), ("float16", 5)])
    short = bfloat16 if dtype == "bfloat16" else np.float16
    feeds = {
        name: (value * (1e-4 if name == "y0" else 1)).astype(short)
        for name, value in inputs(rng, (2, tokens), 24, [50]).items()
    }
    feeds["y0"][0, 0, :3] = [np.inf, -np.inf, np.nan]
    record = {"pool" if pool else "p": adapter_record(whole)}
    numbers = {"rows": [0, 0], "tags": [0, 0]} if pool else {}
    value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    number = TensorProto.BFLOAT16 if dtype == "bfloat16" else TensorProto.FLOAT16
    given = {name: value(array.view(np.uint16), number) for name, array in feeds.items()}
    plain = record | {name: np.array(row) for name, row in numbers.items()}
    given |= {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in plain.items()}
    run = session(24, [18, 18, 14], fused=True, pool=pool, dtype=dtype)
    (z,) = run.run_with_ort_values(None, given)
    found = ort_numpy(z).view(short).astype(np.float64)
    x, y = (feeds[name].astype(np.float64) for name in ("x", "y0"))
    exact = y + x @ dense_of(whole, members, 24)
    wide = np.abs(x) @ np.abs(dense_of(whole, members, 24)) + np.abs(y)
    assert np.array_equal(found[0, 0, :3], exact[0, 0, :3], equal_nan=True)
    found, exact, wide = (a.reshape(-1)[3:] for a in (found, exact, wide))
    half = np.abs(exact.astype(short).astype(np.float64) - exact) + 2e-6 * wide
    assert (np.abs(found - exact) <= half).all()


def ort_numpy(value: ort.OrtValue) -> np.ndarray:
    """The bytes of an OrtValue, whose type numpy may not have."""
    shape = [*value.shape(), 2]
    memory = (ctypes.c_uint8 * math.prod(shape)).from_address(value.data_ptr())
    return np.frombuffer(memory, np.uint8).copy().reshape(shape).view(np.uint16)[..., 0]


def test_a_row_never_gets_another_adapter() -> None:
    rng = np.random.default_rng(0)
    members = [(2, 8, 3), (4, 4, 2)]
    record = adapter_record(adapter(rng, (4, 6), members), tag=5)
    pool = np.concatenate([record, adapter_record(adapter(rng, (4, 6), members), tag=6)])
    feeds = inputs(rng, (3, 1), 24, [16, 16])
    run = session(24, [16, 16], pool=True).run

    def refusal(rows: list[int], tags: list[int]) -> str:
        with pytest.raises(Exception, match="kronq: ") as raised:
            run(None, {**feeds, "pool": pool, "rows": np.array(rows), "tags": np.array(tags)})
        return str(raised.value)

    size = len(record)
    assert "row 1, byte 0 of the pool: another adapter's record" in refusal([0, 0, -1], [5, 6, 0])
    assert f"row 2, byte {size} of" in refusal([0, size, size], [5, 6, 5])
    assert "row 0, byte 64 of the pool: no adapter's record" in refusal([64, 0, 0], [5, 5, 5])
    for place in (-2, -(2**63), len(pool), len(pool) - 63, 2**63 - 1):
        assert "row 1" in refusal([-1, place, 0], [0, 5, 5])
    assert "other rows" in refusal([0, 0], [5, 5])
    assert "one number for each row" in refusal([0, 0, 0], [5, 5])
    short = {"pool": pool[: size - 64], "rows": np.array([0, 0, 0]), "tags": np.array([5, 5, 5])}
    with pytest.raises(Exception, match=r"row 0, byte 0 of the pool: the adapter.s record is"):
        run(None, {**feeds, **short})


@max_examples(300)
@given(st.data())
def test_bytes_that_lie_are_refused_or_harmless(data) -> None:
    packed = RECORD.copy()
    words = packed.view("<u4")
    place = data.draw(st.integers(0, 24 + 24) | st.integers(0, len(words) - 1))
    words[place] = data.draw(st.integers(0, 2**32 - 1) | st.integers(0, 99))
    length = data.draw(st.sampled_from([len(packed), 0, 7, 8, 16, 64, 120, 128, len(packed) - 64]))
    feeds = inputs(np.random.default_rng(0), (1, 3), 24, [16, 16])
    try:
        found = FIXED.run(None, {**feeds, "p": packed[:length]})
    except Exception as error:
        assert "kronq: " in str(error)  # noqa: PT017 - most of them
    else:
        assert all(z.shape == (1, 3, 16) for z in found)


FIXED = session(24, [16, 16])
RECORD = adapter_record(
    adapter(np.random.default_rng(0), (4, 6), [(2, 8, 3), (4, 4, 2)], [(4, 3), ("float32", 8)])
)


def test_a_graph_that_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(Exception, match="X has another width"):
        FIXED.run(None, {**inputs(rng, (1, 3), 25, [16, 16]), "p": RECORD})
    with pytest.raises(Exception, match="Y has another width"):
        FIXED.run(None, {**inputs(rng, (1, 3), 24, [16, 15]), "p": RECORD})
    with pytest.raises(Exception, match="does not fit the layers' inputs"):
        session(48, [16, 16]).run(None, {**inputs(rng, (1, 3), 48, [16, 16]), "p": RECORD})
    with pytest.raises(Exception, match="does not fit the layers' outputs"):
        session(24, [16, 8]).run(None, {**inputs(rng, (1, 3), 24, [16, 8]), "p": RECORD})


def test_a_library_from_elsewhere_is_not_opened(tmp_path, monkeypatch) -> None:
    other = tmp_path / LIBRARY.name
    with pytest.raises(UnsupportedError, match="missing"):
        verified_library(other)
    other.write_bytes(LIBRARY.read_bytes())
    assert verified_library(other) == LIBRARY  # never the folder's file, which can be exchanged
    other.write_bytes(LIBRARY.read_bytes() + b"more")
    with pytest.raises(UnsupportedError, match="not made on this machine"):
        verified_library(other)
    monkeypatch.setenv(TRUST, "1")
    assert verified_library(other) == other


def test_a_damaged_library_in_the_cache_is_compiled_again(tmp_path) -> None:
    library = compiled_library(PROGRAM, tmp_path)
    whole = library.read_bytes()
    library.write_bytes(whole[:-1] + b"x")
    assert compiled_library(PROGRAM, tmp_path) == library
    assert library.read_bytes() == whole
    library.with_suffix(".digest").unlink()
    library.write_bytes(b"no library")
    assert compiled_library(PROGRAM, tmp_path).read_bytes() == whole


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
@pytest.mark.parametrize("part", ["", "key", "key/name"])
def test_a_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch, part) -> None:
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path))
    library = compiled_library(PROGRAM)
    place = {"": library.parent.parent, "key": library.parent, "key/name": library}[part]
    place.chmod(0o777)
    with pytest.raises(UnsupportedError, match="others can write"):
        compiled_library(PROGRAM)
    own = verified_library(library)
    assert not own.is_relative_to(tmp_path)
    assert own.read_bytes() == library.read_bytes()


def test_no_compiler(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    with pytest.raises(UnsupportedError, match="no C compiler; found no-such-compiler"):
        compiled_library(PROGRAM, tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(UnsupportedError, match="does not compile"):
        compiled_library(PROGRAM, tmp_path)
    assert not list(tmp_path.rglob("*.so"))
