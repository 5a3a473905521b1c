"""GGUF files of unknown models, or that ask for more than they hold, are refused at once."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import pytest

from kronq.base.build import build_base
from kronq.base.gguf import gguf_to_hf
from kronq.base.gguf_architectures import ARCHITECTURES
from kronq.base.gguf_sizes import check_gguf
from kronq.errors import FormatError, KronqError, UnsupportedError
from tests.attacks.mutations import change_bytes

SIZES = {
    "block_count": 1,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 2,
    "vocab_size": 40,
}


def write(path: Path, architecture: str = "llama", kind: str = "model", **claims: int) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type(kind)
    for name, size in (SIZES | {key.replace("__", "."): n for key, n in claims.items()}).items():
        writer.add_uint32(f"{architecture}.{name}", size)
    shapes = {"token_embd": (40, 32), "blk.0.attn_q": (32, 32), "blk.0.ffn_up": (48, 32)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_its_tensors_hold(tmp_path: Path) -> None:
    check_gguf(write(tmp_path / "x.gguf"))


@pytest.mark.parametrize("name", SIZES)
def test_more_than_its_tensors_hold(tmp_path: Path, name: str) -> None:
    """20,000 blocks in a file of 10 KB kept transformers busy for minutes."""
    path = write(tmp_path / "x.gguf", **{name.replace(".", "__"): 20_000})
    with pytest.raises(FormatError, match=rf"llama\.{name} is larger than the file's tensors"):
        gguf_to_hf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["command-r", "granite", "t5", "falcon", "deci", "clip", "\x1b[31m"]
)
def test_another_architecture(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "x.gguf", name)
    with pytest.raises(UnsupportedError, match="cannot become a base") as error:
        build_base(path, tmp_path / "out")
    assert str(path) in str(error.value)
    assert "llama, mistral" in str(error.value)
    assert "Hugging Face folder" in str(error.value)
    assert str(error.value).isprintable()
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="an adapter, and no model"):
        build_base(write(tmp_path / "x.gguf", kind="adapter"), tmp_path / "out")


def test_every_architecture_is_read_and_built() -> None:
    """By the versions that are installed."""
    pytest.importorskip("onnxruntime_genai")
    from onnxruntime_genai.models import builder
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    text = Path(builder.__file__).read_text()
    for name in ARCHITECTURES:
        kind = {"gpt-oss": "gpt_oss", "gemma3": "gemma3_text"}.get(name, name)
        assert kind.removesuffix("_text") in GGUF_SUPPORTED_ARCHITECTURES
        model = AutoModelForCausalLM._model_mapping[type(AutoConfig.for_model(kind))]
        assert f'"{model.__name__}"' in text


def test_damaged_files(tmp_path: Path) -> None:
    good, path = write(tmp_path / "good.gguf").read_bytes(), tmp_path / "x.gguf"
    refused = 0
    for seed in range(300):
        rng = random.Random(seed)  # noqa: S311
        head = rng.choice([400, 1000, len(good)])
        path.write_bytes(change_bytes(rng, good[:head]) + good[head:])
        try:
            check_gguf(path)
        except KronqError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert 100 < refused < 300
