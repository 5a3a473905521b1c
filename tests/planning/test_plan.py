"""Plans against the paper's counts, PEFT's own modules and the files that kronq writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoKrConfig, LoraConfig, get_peft_model
from peft.tuners.lokr.layer import factorization

import kronq
from kronq import AdapterShape
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float
from kronq.planning.families import factorize, make_delta
from kronq.planning.linear_layers import read_linear_layers
from tests.cli.command import Kronq


def write_config(folder: Path, config: transformers.PretrainedConfig, architecture: str) -> Path:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    return folder / "config.json"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return write_config(tmp_path_factory.mktemp("llama"), config, "LlamaForCausalLM")


def test_the_papers_counts(tmp_path) -> None:
    """Kron-LoRA (arXiv 2508.01961) on Mistral-7B and DistilBERT."""
    config = transformers.MistralConfig(vocab_size=32000, num_key_value_heads=8)
    mistral = write_config(tmp_path / "mistral", config, "MistralForCausalLM")
    everything = "_proj$|lm_head"
    shapes = [AdapterShape("kron", 8, a_out=16), AdapterShape("kron", 8), AdapterShape("lora", 8)]
    made = kronq.plan(mistral, shapes, only=everything)
    assert [each.parameters for each in made.adapters] == [5_708_448, 5_393_760, 21_260_288]
    config = transformers.DistilBertConfig()
    distil = write_config(tmp_path / "distil", config, "DistilBertForSequenceClassification")
    made = kronq.plan(distil, [AdapterShape("kron", 8, a_out=4)], only="transformer")
    assert made.adapters[0].parameters == 249_120


@pytest.mark.parametrize("factor", [-1, 2, 4, 7, 16, 100])
def test_sizes_are_split_as_peft_splits_them(factor) -> None:
    assert all(factorize(n, factor) == factorization(n, factor) for n in range(1, 700))


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        (AdapterShape("lora", 8), LoraConfig(r=8, target_modules="all-linear")),
        (
            AdapterShape("lokr", 8),
            LoKrConfig(r=8, decompose_factor=4, target_modules="all-linear"),
        ),
        (
            AdapterShape("lokr", 32, factor=-1),
            LoKrConfig(r=32, decompose_factor=-1, target_modules="all-linear"),
        ),
    ],
)
def test_parameters_are_those_that_peft_trains(llama, shape, config) -> None:
    with torch.device("meta"):
        parsed = transformers.AutoConfig.from_pretrained(llama.parent)
        model = transformers.AutoModelForCausalLM.from_config(parsed)
    peft = get_peft_model(model, config)
    trained = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    assert kronq.plan(llama, [shape]).adapters[0].parameters == trained


def random_adapter(shape: AdapterShape, layers: dict[str, tuple[int, int]]) -> kronq.Adapter:
    rng = np.random.default_rng(0)

    def fill(product: Product) -> Product:
        if product.shape == (1, 1):
            return product
        return Product(
            *(Float(rng.standard_normal(m.shape, dtype=np.float32)) for m in product.matrices)
        )

    def layer(size: tuple[int, int]) -> Delta:
        delta = make_delta(shape, *size)
        return Delta(fill(delta.a), fill(delta.b), 1.0, delta.shape)

    return kronq.Adapter({name: layer(size) for name, size in layers.items()})


@pytest.mark.parametrize(
    "shape",
    [
        AdapterShape("lora", 8),
        AdapterShape("kron", 8, b_out=24),
        AdapterShape("lokr", 4),
        AdapterShape("lokr", 16, factor=-1),
        AdapterShape("lora-xs", 16),
    ],
    ids=str,
)
def test_bytes_are_those_of_the_files(llama, shape, tmp_path) -> None:
    layers, head = read_linear_layers(llama)
    assert head == "lm_head"
    adapter = random_adapter(shape, {n: s for n, s in layers.items() if n != head})
    planned = kronq.plan(llama, [shape]).adapters[0]
    for bits in (8, 4, 2):
        size = kronq.save(kronq.quantize(adapter, bits=bits), tmp_path / f"{bits}.safetensors")
        nominal = planned.native_bytes[str(bits)]
        assert abs(size.stat().st_size - nominal) <= 0.02 * nominal + 1000
    config = kronq.Compact(bpw=2)
    if adapter.parameters > 20_000:
        size = kronq.save(kronq.quantize(adapter, config), tmp_path / "compact.safetensors")
        assert planned.compact_bytes["2"] * 0.98 < size.stat().st_size <= planned.compact_bytes["2"]
    half = kronq.save(
        kronq.quantize(adapter, kronq.Float16()), tmp_path / "half.safetensors"
    ).stat()
    assert planned.fp16_bytes == pytest.approx(half.st_size, abs=200)


def test_transposed_linear_layers(tmp_path) -> None:
    config = transformers.GPT2Config(n_embd=48, n_layer=1, n_head=2, vocab_size=64)
    layers, _ = read_linear_layers(write_config(tmp_path, config, "GPT2LMHeadModel"))
    assert layers["transformer.h.0.mlp.c_fc"] == (192, 48)


def test_command(llama, capsys) -> None:
    kronq_command = Kronq(capsys)
    shown = kronq_command(
        "plan", llama.parent, "--family", "kron", "--rank", "8,2", "--size", "4KB"
    )
    assert "28 linear layers" in shown.out
    assert "bits in 4,000" in shown.out
    found = kronq_command("plan", llama, "--family", "lora-xs", "--json").json()
    assert found["adapters"][0]["parameters"] == 28 * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no 'model_type' in it"),
        ('{"model_type": "no-such-model"}', "transformers makes no model"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000000}', "too many layers"),
        ('{"model_type": "llama", "hidden_size": "x"}', "transformers makes no model"),
    ],
)
def test_bad_configs(tmp_path, text, message) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(kronq.FormatError, match=message):
        kronq.plan(tmp_path, [AdapterShape("lora", 8)])


def test_bad_settings(llama) -> None:
    with pytest.raises(kronq.ArgumentError, match="no such family"):
        kronq.plan(llama, [AdapterShape("vera", 8)])
    with pytest.raises(kronq.ArgumentError, match="no layer has such a name"):
        kronq.plan(llama, [AdapterShape("lora", 8)], only="nowhere")
    with pytest.raises(kronq.ArgumentError, match="LoRA-XS cannot have"):
        kronq.plan(llama, [AdapterShape("lora-xs", 64)])
