"""The whole pool as one input of a graph: bound once, and read where it lies."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kronq import Pool
from kronq.pool.compaction import compact
from kronq.pool.writing import append
from tests.pool.records import content, record

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the array changes as it grows")
def test_a_pool_is_bound_once_and_what_is_added_later_is_read(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["pool", "bytes"], ["read"])],
        "reader",
        [
            helper.make_tensor_value_info("pool", TensorProto.UINT8, ["size"]),
            helper.make_tensor_value_info("bytes", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("read", TensorProto.UINT8, ["n"])],
    )
    opset = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    append(tmp_path / "pool", [record("a")])
    with Pool.open(tmp_path / "pool") as pool:
        array = pool.bytes
        binding = session.io_binding()
        binding.bind_input("pool", "cpu", 0, np.uint8, array.shape, array.ctypes.data)

        def read(begin: int, end: int) -> np.ndarray:
            binding.bind_cpu_input("bytes", np.arange(begin, end, dtype=np.int64))
            binding.bind_output("read")
            session.run_with_iobinding(binding)
            return binding.copy_outputs_to_cpu()[0]

        for version in range(3):
            append(tmp_path / "pool", [record("a", version)], force=True)
            compact(tmp_path / "pool")
            append(tmp_path / "pool", [record("b", version)], force=True)
            pool.refresh()
            for name in "ab":
                with pool.use(name) as entry:
                    found = read(entry.offset + 64, entry.offset + entry.size)
                    assert np.array_equal(found, content(name, version)[64:])
        assert not read(array.size - 8, array.size).any()  # never a fault
