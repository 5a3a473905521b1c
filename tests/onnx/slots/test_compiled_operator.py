"""The compiled operator alone, against numpy: any shape, any tokens, and damaged bytes."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kronq.compiled.find import compiled_library
from kronq.errors import UnsupportedError
from kronq.onnx.slots.group_factors import GroupFactors, LazyStack
from kronq.onnx.slots.kernel import PROGRAM, TRUST, verified_library
from kronq.onnx.slots.packed_input import EMPTY_ADAPTER, packed_input_chunks
from tests.fuzzing import max_examples

try:
    LIBRARY = compiled_library(PROGRAM)
except UnsupportedError as error:
    pytest.skip(str(error), allow_module_level=True)

Member3 = tuple[int, int, int]


def session(d_in: int, d_outs: list[int], fused: bool, threads: int = 1) -> ort.InferenceSession:
    """One operator: its layers' outputs apart, or side by side in one."""
    widths = [sum(d_outs)] if fused else d_outs
    names = [f"y{i}" for i in range(len(widths))]
    node = helper.make_node(
        f"PackedSlots_{len(widths)}",
        ["x", *names, "p"],
        [f"z{i}" for i in range(len(widths))],
        domain="kronq",
        group=1,
        d_in=d_in,
        target=[0] * len(d_outs) if fused else list(range(len(d_outs))),
        start=np.cumsum([0, *d_outs])[:-1].tolist() if fused else [0] * len(d_outs),
        d_out=d_outs,
    )
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "one",
        [
            tensor("x", TensorProto.FLOAT, [None, None, None]),
            *(tensor(n, TensorProto.FLOAT, [None, None, None]) for n in names),
            tensor("p", TensorProto.UINT8, [None]),
        ],
        [tensor(f"z{i}", TensorProto.FLOAT, [None, None, None]) for i in range(len(widths))],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("kronq", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(LIBRARY))
    return ort.InferenceSession(model.SerializeToString(), options)


def adapter(rng, cut: tuple[int, int], members: list[Member3]) -> tuple[np.ndarray, list]:
    """As bytes, behind a group without an adapter; and ΔWᵀ of each member."""
    a_in, b_in = cut
    shapes = [
        ((1, a_out, a_in), (1, rank, b_out), (1, b_in, rank)) for a_out, b_out, rank in members
    ]
    factors = [
        tuple(LazyStack.of(rng.normal(size=shape).astype(np.float32)) for shape in layer)
        for layer in shapes
    ]
    shapes = ((1, 1, 1), (1, 0, 4), (1, 4, 0))
    none = tuple(LazyStack.of(np.zeros(shape, np.float32)) for shape in shapes)
    exact = [[part.make()[0].astype(np.float64) for part in layer] for layer in factors]
    dense = [np.kron(a.T, b2 @ b1) for a, b1, b2 in exact]
    row = packed_input_chunks(
        [GroupFactors([1], a_in, b_in, factors), GroupFactors([0], 1, 4, [none])]
    )
    return np.concatenate(list(row)), dense


def inputs(rng, tokens: int, d_in: int, widths: list[int]) -> dict[str, np.ndarray]:
    shapes = {"x": d_in, **{f"y{i}": width for i, width in enumerate(widths)}}
    return {n: rng.normal(size=(1, tokens, w)).astype(np.float32) for n, w in shapes.items()}


sizes = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 30])
ranks = st.sampled_from([0, 1, 3, 7, 8, 9, 16, 20, 70])


@max_examples(60)
@given(
    st.tuples(sizes, sizes),
    st.lists(st.tuples(sizes, sizes, ranks), min_size=1, max_size=4),
    st.sampled_from([0, 1, 2, 5, 33, 100]),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_it_adds_the_kronecker_product(cut, members, tokens, fused, threads) -> None:
    rng = np.random.default_rng(0)
    packed, dense = adapter(rng, cut, members)
    d_outs = [a * b for a, b, _ in members]
    widths = [sum(d_outs)] if fused else d_outs
    feeds = inputs(rng, tokens, cut[0] * cut[1], widths)
    run = session(cut[0] * cut[1], d_outs, fused, threads).run
    found = np.concatenate(run(None, {**feeds, "p": packed}), axis=-1)
    before = np.concatenate([feeds[f"y{i}"] for i in range(len(widths))], axis=-1)
    expected = before + feeds["x"].astype(np.float64) @ np.concatenate(dense, axis=-1)
    assert np.abs(found - expected).max(initial=0) <= 1e-5 * np.abs(expected).max(initial=1)
    assert np.array_equal(np.concatenate(run(None, {**feeds, "p": EMPTY_ADAPTER}), axis=-1), before)


def test_a_token_that_does_not_fit_the_stack() -> None:
    rng = np.random.default_rng(0)
    members = [(64, 2, 70), (3, 5, 200)]
    packed, dense = adapter(rng, (64, 3), members)
    feeds = inputs(rng, 9, 192, [128, 15])
    found = session(192, [128, 15], fused=False, threads=2).run(None, {**feeds, "p": packed})
    for i, delta in enumerate(dense):
        np.testing.assert_allclose(found[i], feeds[f"y{i}"] + feeds["x"] @ delta, atol=2e-3)


@max_examples(300)
@given(st.data())
def test_bytes_that_lie_are_refused_or_harmless(data) -> None:
    rng = np.random.default_rng(0)
    packed, _ = adapter(rng, (4, 6), [(2, 8, 3), (4, 4, 2)])
    words = packed.view("<i8").copy()
    place = data.draw(st.sampled_from([0, 1, 2, *range(8, 16)]))  # the head, and the record's
    words[place] = data.draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 999))
    length = data.draw(st.sampled_from([len(packed), 0, 7, 8, 16, 64, 120, 128, len(packed) - 64]))
    feeds = inputs(rng, 3, 24, [16, 16])
    try:
        found = FIXED.run(None, {**feeds, "p": words.view(np.uint8)[:length]})
    except Exception as error:
        assert "kronq: " in str(error)  # noqa: PT017 - most of them
    else:
        assert all(z.shape == (1, 3, 16) for z in found)


FIXED = session(24, [16, 16], fused=False)


def test_a_graph_that_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(0)
    packed, _ = adapter(rng, (4, 6), [(2, 8, 3), (4, 4, 2)])
    with pytest.raises(Exception, match="X has another width"):
        FIXED.run(None, {**inputs(rng, 3, 25, [16, 16]), "p": packed})
    with pytest.raises(Exception, match="Y has another width"):
        FIXED.run(None, {**inputs(rng, 3, 24, [16, 15]), "p": packed})
    with pytest.raises(Exception, match="does not fit the layers"):
        session(48, [16, 16], fused=False).run(None, {**inputs(rng, 3, 48, [16, 16]), "p": packed})


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
