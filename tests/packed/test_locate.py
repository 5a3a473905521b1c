"""Byte ranges of matrices: other programs map them without kronq."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import kronq
from kronq.model.bit_packing import pack_channels, pack_codes
from kronq.model.matrix import Quantized
from kronq.packed import Location, locate, matrices_by_role
from kronq.quantization.mixed.native import native
from tests import adapters
from tests import onnx_dequantize as by

TYPES = {
    "int8": TensorProto.INT8,
    "int4": TensorProto.INT4,
    "float16": TensorProto.FLOAT16,
}


@pytest.mark.parametrize("bits", [16, 8, 4, 3, 2])
def test_every_matrix_lies_where_it_is_said_to(tmp_path: Path, bits: int) -> None:
    quantized = kronq.quantize(adapters.adapter(), kronq.Uniform(bits=bits, a_bits=8))
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    data, locations = path.read_bytes(), locate(path)
    assert set(locations) == set(quantized)
    covered = 0
    for name, delta in quantized.items():
        for role, stored in matrices_by_role(delta).items():
            location = locations[name][role]
            stored_bytes = data[location.offset : location.offset + location.length]
            assert (location.dtype, location.shape) == (stored.dtype, stored.shape)
            covered += location.length
            if isinstance(stored, Quantized):
                scale = locations[name][f"{role}.scale"]
                there = data[scale.offset : scale.offset + scale.length]
                assert stored_bytes == pack_codes(np.asarray(stored.codes), stored.bits).tobytes()
                assert there == stored.scale.tobytes()
                assert (scale.dtype, scale.shape) == ("float16", stored.scale.shape)
                covered += scale.length
            else:
                assert stored_bytes == np.asarray(stored.array).tobytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert covered == len(data) - header == quantized.nbytes  # every byte, and each once


def test_channels_of_mixed_widths_lie_one_behind_the_other(tmp_path: Path) -> None:
    adapter = native(adapters.adapter(kinds=("kron", "lora", "full_b", "cropped")), 3)
    path = kronq.save(adapter, tmp_path / "a.safetensors")
    data, locations = path.read_bytes(), locate(path)
    covered = 0
    for name, delta in adapter.items():
        for part, location in locations[name].items():
            stored_bytes = data[location.offset : location.offset + location.length]
            covered += location.length
            role, _, what = part.partition(".")
            stored = matrices_by_role(delta)[role]
            assert isinstance(stored, Quantized)
            if stored.widths is None:
                assert (what, location.dtype) == ("", "int8")
                assert stored_bytes == np.asarray(stored.codes).tobytes()
            elif what == "widths":
                assert (location.dtype, location.shape) == ("uint4", stored.widths.shape)
                nibbles = [n for byte in stored_bytes for n in (byte & 15, byte >> 4)]
                assert nibbles[: len(stored.widths)] == stored.widths.tolist()
            elif what == "scale":
                assert stored.scale is not None
                there = stored.scale[stored.widths > 0]
                assert (stored_bytes, location.shape) == (there.tobytes(), there.shape)
            else:
                assert (location.dtype, location.shape) == ("mixed", stored.shape)
                codes = np.asarray(stored.codes)
                channels = codes if stored.axis == 0 else codes.T
                assert stored_bytes == pack_channels(channels, stored.widths).tobytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert covered == len(data) - header == adapter.nbytes


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_floats_and_scales_are_aligned(tmp_path: Path, bits: int) -> None:
    """Checks offsets that are multiples of the item size, beside codes of any size."""
    path = kronq.save(
        kronq.quantize(adapters.adapter(), kronq.Uniform(bits=bits)), tmp_path / "a.safetensors"
    )
    for locations in locate(path).values():
        for location in locations.values():
            assert location.offset % {"float16": 2, "float32": 4}.get(location.dtype, 1) == 0


def external(name: str, location: Location, file: str) -> TensorProto:
    """Returns an ONNX initializer that is a part of the packed file."""
    tensor = TensorProto(name=name, data_type=TYPES[location.dtype], dims=location.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", file),
        ("offset", location.offset),
        ("length", location.length),
    ):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("role", ["B1", "B2"])
def test_onnxruntime_reads_codes_in_place(
    tmp_path: Path, role: str, bits: int, group_size: int | None
) -> None:
    """Reads the last layer of a stack, whose 33·5 int4 codes fill 82 and a half bytes."""
    rng = np.random.default_rng(0)
    layers = {f"l.{i}": adapters.lora(rng, 33, 47, 5) for i in range(3)}
    quantized = kronq.quantize(
        kronq.Adapter(layers), kronq.Uniform(bits=bits, group_size=group_size)
    )
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    stored = matrices_by_role(quantized["l.2"])[role]
    assert isinstance(stored, Quantized)
    locations = locate(path)["l.2"]
    codes = external("codes", locations[role], path.name)
    scale = external("scale", locations[f"{role}.scale"], path.name)
    node = onnx.helper.make_node(
        "DequantizeLinear", ["codes", "scale32"], ["values"], **by.attributes(stored)
    )
    cast = onnx.helper.make_node("Cast", ["scale"], ["scale32"], to=TensorProto.FLOAT)
    output = onnx.helper.make_tensor_value_info("values", TensorProto.FLOAT, stored.shape)
    graph = onnx.helper.make_graph([cast, node], "in_place", [], [output], [codes, scale])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10
    )
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert np.array_equal(by.by_onnxruntime(str(tmp_path / "model.onnx")), stored.float32())
