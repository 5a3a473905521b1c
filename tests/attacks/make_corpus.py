"""Writes the corpus of atheris's targets: small files of every kind that a reader knows.

    python -m tests.attacks.make_corpus

Golden files of the packed format are not copied: ``targets`` has the fuzzer read them, too.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

import kronq
from kronq.onnx.slots.record import adapter_record
from kronq.packed import pack_adapter
from tests import adapters
from tests.attacks.adapter_files import ones
from tests.attacks.base_files import quantized
from tests.attacks.hostile import join
from tests.attacks.readers import READERS
from tests.attacks.targets import CORPUS, TARGETS
from tests.onnx import tiny_onnx as tiny

Tensors = dict[str, Any]
Files = Iterator[tuple[str, str, bytes]]
"""Target, name and contents of each file."""

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
KEY = "lycoris_model_layers_0_mlp_up_proj"
TYPES: dict[str, Any] = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "f64": np.float64,
    "fp8": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
}
DTYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "bfloat16": "BF16", "int8": "I8"}
DTYPES |= {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
LORA = {f"{LAYER}.lora_A.weight": ones(2, 9), f"{LAYER}.lora_B.weight": ones(15, 2)}
KERNEL = {
    f"{LAYER}.lora_A.weight": ones(2, 3, 3, 3),
    f"{LAYER}.lora_B.weight": ones(8, 2, 1, 1),
}
LOKR = {f"{LAYER}.lokr_w1": ones(2, 3), f"{LAYER}.lokr_w2": ones(8, 3)}
TUCKER = {
    f"{KEY}.lokr_w1": ones(2, 2),
    f"{KEY}.lokr_t2": ones(2, 2, 3, 3),
    f"{KEY}.lokr_w2_a": ones(2, 4),
    f"{KEY}.lokr_w2_b": ones(2, 3),
    f"{KEY}.alpha": np.array(2, np.float32),
}
LOHA = {f"{KEY}.hada_w{i}_{s}": ones(*d) for i in (1, 2) for s, d in (("a", (6, 2)), ("b", (2, 4)))}
LOCON = {
    f"{KEY}.lora_up.weight": ones(8, 2, 1, 1),
    f"{KEY}.lora_mid.weight": ones(2, 2, 3, 3),
    f"{KEY}.lora_down.weight": ones(2, 3, 1, 1),
    f"{KEY}.dora_scale": ones(8, 1, 1, 1),
}
FACTORS = {"h.0.A": ones(4, 2), "h.0.B1": ones(5, 2), "h.0.B2": ones(2, 6)}


def encoded(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    stop = 0
    for name, array in tensors.items():
        start, stop = stop, stop + array.nbytes
        dtype, shape = DTYPES[array.dtype.name], list(array.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
    return join(header, b"".join(array.tobytes() for array in tensors.values()))


def both(tensors: Tensors) -> Tensors:
    """Returns the tensors of q and, of the same values, v: all modules that the config names."""
    return tensors | {name.replace("q_proj", "v_proj"): t for name, t in tensors.items()}


def typed(tensors: Tensors, dtype: Any) -> Tensors:
    return {name: array.astype(dtype) for name, array in tensors.items()}


def packed() -> Files:
    whole = adapters.adapter(layers=1)
    configs: dict[str, Any] = {f"bits-{b}": kronq.Uniform(bits=b) for b in (2, 3, 8)}
    configs |= {f"native-{b}": kronq.Native(bits=b) for b in (2, 4, 8)}
    configs |= {"floats": kronq.Float16(), "rows": kronq.Uniform(bits=3, axis="row", group_size=5)}
    for name, config in configs.items():
        target = "native" if name.startswith("native") else "packed"
        yield target, name, pack_adapter(kronq.quantize(whole, config))
    for name, compact in {
        "small": kronq.Compact(size=1200),
        "large": kronq.Compact(size=2000),
    }.items():
        yield "compact", name, pack_adapter(kronq.quantize(whole, compact))


def trained() -> Files:
    for name, dtype in TYPES.items():
        yield "peft-lora", name, encoded(typed(both(LORA), dtype))
        yield "peft", name, encoded(typed(both(LOKR), dtype))
        yield "factors", name, encoded(typed(FACTORS, dtype), {"alpha": "8"})
    yield "peft-lora", "dora", encoded(both(LORA) | {f"{LAYER}.lora_magnitude_vector": ones(15)})
    yield "peft-lora", "convolution", encoded(both(KERNEL))
    yield (
        "peft-lora",
        "saved",
        encoded(both(LORA) | {"base_model.model.head.weight": ones(4, 9)}),
    )
    yield "peft-lora", "half", encoded(dict(list(LORA.items())[:1]))
    for name, tensors in {"tucker": TUCKER, "loha": LOHA, "locon": LOCON}.items():
        yield "lycoris", name, encoded(tensors)
        yield "lycoris", f"{name}-bf16", encoded(typed(tensors, ml_dtypes.bfloat16))
    yield "factors", "no-alpha", encoded(FACTORS)
    yield "factors", "cropped", encoded(FACTORS, {"alpha": "8", "shapes": '{"h.0": [19, 12]}'})


def described() -> Files:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    changes: dict[str, dict[str, Any]] = {
        "dora": {"use_dora": True},
        "rslora": {"use_rslora": True, "alpha_pattern": {"(q|v)_proj": 3}},
        "loha": {"peft_type": "LOHA", "alpha": 4},
        "vera": {"peft_type": "VERA", "projection_prng_key": 0},
        "saved": {"modules_to_save": ["lm_head"], "exclude_modules": ".*1.*"},
        "fan-in": {"fan_in_fan_out": True, "bias": "all", "lora_bias": True},
    }
    for name, change in changes.items():
        yield "peft-config", name, json.dumps(config | change).encode()
    yield "map", "lists", b'{"a.b": ["/a/q", "/a/k", "/a/v"], "c": "c.weight"}'
    rows = {
        "alpaca": '{"instruction": "i", "input": "n", "output": "o"}',
        "completion": '{"prompt": "p", "completion": "c"}',
        "list": '[{"question": "q?", "choices": ["a", "b"], "answer": 0}, {"text": "t"}]',
        "chat": '{"messages": [{"role": "user", "content": "c"}]}',
    }
    for name, row in rows.items():
        yield "examples", name, row.encode()


def compiled() -> Files:
    rng = np.random.default_rng(0)
    small = kronq.Adapter({"l": adapters.lora(rng, rank=2, rows=8, cols=6)})
    for bits in (2, 3, 4, 8):
        quantized_ = kronq.quantize(small, kronq.Uniform(bits=bits))
        yield "record", f"bits-{bits}", adapter_record(quantized_).tobytes()
    yield "record", "floats", adapter_record(small).tobytes()


def bases() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        yield "onnx", "MatMulNBits", quantized(qdq=False).SerializeToString()
        yield "onnx", "DequantizeLinear", quantized(qdq=True).SerializeToString()
        for kind in ("gemm_t", "transposed", "half"):
            tiny.build(path, kind, names="genai")
            yield "onnx", kind, path.read_bytes()
        tiny.build(path, "matmul", names="torchscript")
        model = onnx.load(path)
        model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'a']")
        yield "onnx", "scopes", model.SerializeToString()


def good() -> Files:
    """What each target begins with."""
    for target, (name, file) in TARGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            READERS[name].make(Path(folder))
            yield target, "good", Path(folder, file).read_bytes()


WRITERS: tuple[Callable[[], Files], ...] = (good, packed, trained, described, compiled, bases)


def main() -> None:
    shutil.rmtree(CORPUS)
    for write in WRITERS:
        for target, name, data in write():
            (CORPUS / target).mkdir(parents=True, exist_ok=True)
            (CORPUS / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
