"""Every reader of files from outside, with good files for it."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kronq
from kronq.base.hf_folder import check_hf_folder
from kronq.onnx.graph.match_by_map import load_mapping
from tests.attacks import adapter_files as adapter
from tests.attacks import base_files as base
from tests.attacks import gguf_files as gguf
from tests.attacks import other_files as other
from tests.attacks import served_files as served
from tests.attacks.adapter_files import UNSEALED


@dataclass(frozen=True)
class Reader:
    """A good input and what reads it.

    Attributes:
        make: Writes good files into a folder.
        read: Reads them, and all values in them.
        file: The one that is changed; empty for any of them.
    """

    make: Callable[[Path], object]
    read: Callable[[Path, random.Random], object]
    file: str = ""

    def changed(self, folder: Path) -> list[Path]:
        """Returns the files of which one is to be changed."""
        if self.file:
            return [folder / self.file]
        return sorted(file for file in folder.iterdir() if file.is_file())


PACKED = {
    "whole bytes": kronq.Uniform(bits=4),
    "native": kronq.Native(bits=3),
    "compact": kronq.Compact(size=1600),
}
SEALED = ("widths", "layer_steps", "mixed", "cores", "convolutions")
"""Golden files of version 4; changed ones get a new checksum."""

READERS = {
    "PEFT LoKr": Reader(adapter.peft("LOKR"), adapter.read_adapter),
    "PEFT LoRA": Reader(adapter.peft("LORA"), adapter.read_adapter),
    "LyCORIS": Reader(adapter.lycoris, adapter.read_adapter),
    "factors": Reader(adapter.factors, adapter.read_adapter),
    **{
        f"packed, {name}": Reader(adapter.packed(config), adapter.read_adapter)
        for name, config in PACKED.items()
    },
    **{f"sealed, {name}": Reader(adapter.sealed(name), adapter.read_sealed) for name in SEALED},
    **{
        f"unsealed, {name}": Reader(adapter.sealed(name, UNSEALED), adapter.read_unsealed(name))
        for name in SEALED
    },
    "slots": Reader(other.slots, other.read_slots),
    ".onnx_adapter": Reader(other.onnx_adapter, other.read_onnx),
    "genai_config.json": Reader(other.genai, other.read_genai),
    "config.json": Reader(other.hf, lambda folder, _: check_hf_folder(folder)),
    "map": Reader(
        lambda folder: other.write_json(folder / "x.json", {"a.b": "/a/b/MatMul", "c": "c.weight"}),
        lambda folder, _: load_mapping(folder / "x.json"),
    ),
    "examples": Reader(other.examples, lambda folder, _: kronq.read_examples(folder / "x.jsonl")),
    "scores": Reader(other.scores, other.read_scores),
    "moments": Reader(other.moments, other.read_moments),
    "mark": Reader(other.marked, other.read_marked),
    "pool": Reader(served.pool, served.read_pool),
    "rows of a pool": Reader(served.pool_rows, served.read_pool_rows, file=served.ROWS),
    "record": Reader(served.one_record, served.read_one_record),
    "requests": Reader(served.requests, served.read_requests),
    "ONNX base": Reader(base.with_data("matmul"), base.read_base),
    "ONNX base, Gemm": Reader(base.with_data("gemm_t"), base.read_base),
    "ONNX base, MatMulNBits": Reader(base.of_codes(qdq=False), base.read_base),
    "ONNX base, DequantizeLinear": Reader(base.of_codes(qdq=True), base.read_base),
    "ONNX base, scopes": Reader(base.of_scopes, base.read_base),
}
if importlib.util.find_spec("gguf") is not None:
    READERS["GGUF"] = Reader(gguf.write_good, gguf.read_gguf)
