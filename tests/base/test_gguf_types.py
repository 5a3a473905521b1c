"""A tensor of a type that cannot be read is named, with its type and what to do."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from kronq.base.gguf_sizes import check_gguf
from tests.base.test_gguf_sizes import write
from tests.cli.command import Kronq

TENSOR = "blk.0.ffn_up.weight"
WORDS = ("llama-quantize", "Q4_0", "Q6_K", "IQ4_XS")


def retype(path: Path, number: int) -> Path:
    """Writes another type number for ``TENSOR`` into a file of float32 tensors."""
    (field,) = (t.field for t in gguf.GGUFReader(path).tensors if t.name == TENSOR)
    place = field.offset + sum(part.nbytes for part in field.parts[:4])
    data = bytearray(path.read_bytes())
    assert data[place : place + 4] == bytes(4)  # F32
    data[place : place + 4] = number.to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (4, "found type number 4,"),  # Q4_2, which ggml has removed
        (999, "found type number 999,"),
        (Type.Q8_K.value, "found Q8_K;"),
        (Type.I32.value, "found I32;"),
        (Type.F64.value, "found F64;"),
    ],
)
def test_a_type_that_is_not_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, number: int, told: str
) -> None:
    path = retype(write(tmp_path / "x.gguf"), number)
    line = Kronq(capsys).refuses("base", path, "-o", tmp_path / "out")
    assert all(words in line for words in (f"{path}: {TENSOR}: ", told, *WORDS))
    assert not (tmp_path / "out").exists()


READ = ["F16", "BF16", "Q4_0", "Q5_1", "Q2_K", "Q6_K", "IQ1_M", "IQ2_XXS", "IQ4_NL", "IQ4_XS"]


@pytest.mark.parametrize("name", READ)
def test_types_that_are_read(tmp_path: Path, name: str) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "llama")
    size, nbytes = gguf.GGML_QUANT_SIZES[Type[name]]
    writer.add_tensor(TENSOR, np.zeros((8, 256 // size * nbytes), np.uint8), raw_dtype=Type[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_gguf(tmp_path / "x.gguf")
