"""Speed of six graphs for a group of branches, on layers that read one input.

    python -m benchmarks.emitting

Three layers of one width (as q, k and v are), A 4×4, rank 8, float32, one thread. Every way
computes the same sums; its time is a ratio to the three layers alone, taking turns.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from kronq.compiled.find import own_library
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.matrix import F32, Float
from kronq.onnx.slots.kernel import PROGRAM
from kronq.onnx.slots.record import adapter_record, layer_id

WIDTHS, TOKENS = (576, 1536, 4096), (1, 64, 512)
CUT, RANK, LAYERS = 4, 8, 3
ROUNDS = 15

Factors = list[tuple[F32, F32, F32]]
Way = Callable[["Graph", Factors, list[str]], list[str]]


class Graph:
    """Nodes and constants in the making."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def op(self, kind: str, *inputs: str, count: int = 1, **attributes: object) -> list[str]:
        outs = [f"n{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outs, **attributes))
        return outs

    def shape(self, x: str, *sizes: int) -> str:
        return self.op("Reshape", x, self.constant(np.array([0, 0, *sizes])))[0]

    def by(self, x: str, matrix: np.ndarray) -> str:
        return self.op("MatMul", x, self.constant(matrix))[0]


def apart(g: Graph, factors: Factors) -> list[str]:
    """A chain for each layer, nothing shared."""
    outs = []
    for a, b1, b2 in factors:
        h = g.by(g.shape("x", CUT, b2.shape[1]), b2.T)
        h = g.by(g.op("MatMul", g.constant(a), h)[0], b1.T)
        outs.append(g.shape(h, CUT * len(b1)))
    return outs


def shared(g: Graph, factors: Factors) -> list[str]:
    """One reshape and one product with all B2, then a chain for each: what kronq writes."""
    h = g.by(g.shape("x", CUT, factors[0][2].shape[1]), np.concatenate([f[2] for f in factors]).T)
    parts = g.op("Split", h, g.constant(np.array([RANK] * LAYERS)), count=LAYERS, axis=-1)
    outs = []
    for (a, b1, _), part in zip(factors, parts, strict=True):
        h = g.by(g.op("MatMul", g.constant(a), part)[0], b1.T)
        outs.append(g.shape(h, CUT * len(b1)))
    return outs


def mixed(g: Graph, factors: Factors) -> list[str]:
    """All A as one matrix too, and all B1 as one block-diagonal matrix."""
    wide = RANK * LAYERS
    h = g.by(g.shape("x", CUT, factors[0][2].shape[1]), np.concatenate([f[2] for f in factors]).T)
    middle = np.zeros((CUT, wide, CUT, wide), dtype=np.float32)
    last = np.zeros((LAYERS, RANK, LAYERS, len(factors[0][1])), dtype=np.float32)
    for i, (a, b1, _) in enumerate(factors):
        last[i, :, i] = b1.T
        for k in range(i * RANK, (i + 1) * RANK):
            middle[:, k, :, k] = a.T
    h = g.by(g.shape(h, CUT * wide), middle.reshape(CUT * wide, -1))
    h = g.by(g.shape(h, CUT, wide), last.reshape(wide, -1))
    size = len(factors[0][1])
    parts = g.op("Split", h, g.constant(np.array([size] * LAYERS)), count=LAYERS, axis=-1)
    return [g.shape(part, CUT * size) for part in parts]


def folded(g: Graph, factors: Factors) -> list[str]:
    """A ⊗ B2 multiplied out: fewer nodes, more bytes."""
    h = g.by("x", np.concatenate([np.kron(a, b2) for a, _, b2 in factors]).T)
    parts = g.op("Split", h, g.constant(np.array([CUT * RANK] * LAYERS)), count=LAYERS, axis=-1)
    return [
        g.shape(g.by(g.shape(part, CUT, RANK), b1.T), CUT * len(b1))
        for (_, b1, _), part in zip(factors, parts, strict=True)
    ]


def low_rank(g: Graph, factors: Factors) -> list[str]:
    """The exact LoRA of rank 32: three nodes a layer."""
    outs = []
    for a, b1, b2 in factors:
        h = g.by("x", np.kron(a, b2).T)
        outs.append(g.by(h, np.kron(np.eye(CUT, dtype=np.float32), b1).T))
    return outs


def added(way: Callable[[Graph, Factors], list[str]]) -> Way:
    def sums(g: Graph, factors: Factors, bases: list[str]) -> list[str]:
        return [g.op("Add", y, h)[0] for y, h in zip(bases, way(g, factors), strict=True)]

    return sums


def compiled(g: Graph, factors: Factors, bases: list[str]) -> list[str]:
    """One compiled operator: what kronq writes with --kernel."""
    widths = [len(a) * len(b1) for a, b1, _ in factors]
    b_in = factors[0][2].shape[1]
    names = [str(number) for number in range(len(factors))]
    layers = {
        name: Delta.uncropped(Product(Float(a)), Product(Float(b1), Float(b2)), 1.0)
        for name, (a, b1, b2) in zip(names, factors, strict=True)
    }
    packed = g.constant(adapter_record(Adapter(layers)))
    ids = np.array([layer_id(name) for name in names], np.uint64).view(np.int64).tolist()
    told = {"layer": ids, "d_in": CUT * b_in, "d_out": widths}
    places = {"target": list(range(len(bases))), "start": [0] * len(bases)}
    kind, count = f"RecordSlots_{len(bases)}", len(bases)
    return g.op(kind, "x", *bases, packed, count=count, domain="kronq", **told, **places)


WAYS: dict[str, Way] = {
    f.__name__.replace("_", " "): added(f) for f in (apart, shared, mixed, folded, low_rank)
} | {"compiled": compiled}


def session(width: int, way: Way | None) -> ort.InferenceSession:
    rng = np.random.default_rng(0)

    def matrix(rows: int, cols: int) -> F32:
        return (rng.standard_normal((rows, cols)) / cols**0.5).astype(np.float32)

    g = Graph()
    sums = [g.by("x", matrix(width, width)) for _ in range(LAYERS)]
    part = width // CUT
    factors = [(matrix(CUT, CUT), matrix(part, RANK), matrix(RANK, part)) for _ in range(LAYERS)]
    if way is not None:
        sums = way(g, factors, sums)
    shape = [1, "tokens", width]
    graph = helper.make_graph(
        g.nodes,
        "group",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in sums],
        [numpy_helper.from_array(value, name) for name, value in g.constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("kronq", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(own_library(PROGRAM)))
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options)


def main() -> None:
    print("Branches of three layers that read one input, time as a ratio to the layers alone")
    print(f"(median of {ROUNDS}, lowest to highest; float32, A 4×4, rank 8, one thread):")
    rng = random.Random(0)  # noqa: S311
    for width in WIDTHS:
        sessions = {"": session(width, None)} | {n: session(width, w) for n, w in WAYS.items()}
        for tokens in TOKENS:
            x = np.random.default_rng(1).standard_normal((1, tokens, width)).astype(np.float32)
            expected = sessions["apart"].run(None, {"x": x})
            times: dict[str, list[float]] = {name: [] for name in sessions}
            calls = max(1, 2**24 // (tokens * width * width))
            for _ in range(ROUNDS + 1):
                for name in rng.sample(list(sessions), len(sessions)):
                    start = time.perf_counter()
                    for _ in range(calls):
                        found = sessions[name].run(None, {"x": x})
                    times[name].append(time.perf_counter() - start)
                    if name:
                        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
            line = []
            for name in WAYS:
                pairs = zip(times[name][1:], times[""][1:], strict=True)
                ratios = [one / other for one, other in pairs]
                low, high = min(ratios), max(ratios)
                line.append(f"{name} {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
            print(f"  {width:>4} wide, {tokens:>3} tokens: {', '.join(line)}")


if __name__ == "__main__":
    main()
