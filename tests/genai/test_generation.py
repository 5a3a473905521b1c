"""Generated text: tokens equal torch's, arithmetic equals Session.run's, timings are reported."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from kronq import Session
from kronq.cli import cli
from kronq.errors import KronqError
from kronq.genai.prompts import drop_second_bos, encode_prompt
from kronq.genai.sampling import Sampling


@pytest.fixture(scope="module")
def tiny(tiny_base):
    return Session(tiny_base, device="cpu", threads=1)


def quantize_weights(source, out):
    """Every MatMul's weight as int8 codes with a DequantizeLinear."""
    shutil.copytree(source, out)
    model = onnx.load(out / "model.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            w = numpy_helper.to_array(weights[node.input[1]])
            scale = abs(w).reshape(-1, 32, w.shape[1]).max(axis=1) / 127
            codes = np.rint(w / np.repeat(scale, 32, axis=0)).astype(np.int8)
            names = [f"{node.name}/codes", f"{node.name}/scale"]
            for name, array in zip(names, (codes, scale.astype(np.float32)), strict=True):
                model.graph.initializer.append(numpy_helper.from_array(array, name))
            name = f"{node.name}/weight"
            nodes.append(helper.make_node("DequantizeLinear", names, [name], axis=0, block_size=32))
            node.input[1] = name
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (out / "model.onnx.data").unlink()
    onnx.save(model, out / "model.onnx")
    return out


def genai_logits(model, ids):
    """Logits of a prompt's last token, as onnxruntime-genai has them."""
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + 1)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    return np.array(generator.get_logits())[0, -1]


def test_genai_computes_quantized_weights_as_written(tiny_base, tmp_path):
    """Exact arithmetic also for older folders, whose genai_config.json does not configure it."""
    import onnxruntime_genai as og

    folder = quantize_weights(tiny_base, tmp_path / "model")
    config = json.loads((folder / "genai_config.json").read_text())
    del config["model"]["decoder"]["session_options"]["session.qdq_matmulnbits_accuracy_level"]
    (folder / "genai_config.json").write_text(json.dumps(config))

    session = Session(folder)
    ids = session.tokenize("The quick brown fox")
    expected = session.logits(ids)[0, -1]
    exact = genai_logits(session._texts.model.genai, ids)
    plain = genai_logits(og.Model(str(folder)), ids)
    size = abs(expected).max()
    assert abs(exact - expected).max() / size < 1e-5
    assert abs(plain - expected).max() / size > 1e-4


def test_tokens_and_back(tiny):
    text = "A fox – and a hound."
    assert tiny.detokenize(tiny.tokenize(text)) == text


def test_greedy_takes_the_likeliest_token_each_time(tiny):
    prompt = "abc"
    pieces = []
    result = tiny.generate(prompt, max_tokens=5, stream=pieces.append)
    ids = tiny.tokenize(prompt)
    for token in result.tokens:
        assert token == tiny.logits(ids)[0, -1].argmax()
        ids.append(token)
    assert "".join(pieces) == result.text
    assert (result.prompt_tokens, len(result.tokens), result.stopped) == (3, 5, "length")
    assert result.prefill_tokens_per_second > 0
    assert result.decode_tokens_per_second > 0


def test_any_model_of_a_folder_generates(tiny, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    (folder / "model.onnx").rename(folder / "grafted.onnx")
    result = Session(folder / "grafted.onnx").generate("abc", max_tokens=5)
    assert result.tokens == tiny.generate("abc", max_tokens=5).tokens


def test_a_seed_repeats_itself(tiny):
    settings = {"max_tokens": 12, "temperature": 1.0, "top_k": 50, "top_p": 0.95}
    one = tiny.generate("abc", seed=1, **settings)
    assert tiny.generate("abc", seed=1, **settings).tokens == one.tokens
    assert tiny.generate("abc", seed=2, **settings).tokens != one.tokens


def test_one_token_has_no_decode_speed(tiny):
    assert tiny.generate("abc", max_tokens=1).decode_tokens_per_second is None


def test_the_context_is_never_exceeded(tiny):
    assert len(tiny.generate("a" * 60, max_tokens=50).tokens) == 4
    with pytest.raises(KronqError, match="the prompt fills the context; found 64 tokens"):
        tiny.generate("a" * 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "nothing to generate"),
        ({"temperature": -1.0}, "not a temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "not a top-p"),
        ({"temperature": 1.0, "top_k": 0}, "not a top-k"),
        ({"top_p": 0.9}, "do nothing at temperature 0"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"chat": True}, "no usable chat template"),
    ],
)
def test_impossible_settings(tiny, settings, message):
    with pytest.raises(KronqError, match=message):
        tiny.generate(**{"prompt": "abc", **settings})


def test_greedy_options_disable_sampling():
    assert Sampling().search_options() == {"do_sample": False, "num_beams": 1}


def test_a_chat_begins_with_one_bos():
    assert drop_second_bos([1, 1, 5], 1) == [1, 5]
    tokenizer = SimpleNamespace(
        apply_chat_template=lambda message, **_: "<s>" + message,
        encode=lambda text: [1, 1, len(text)],
        bos_token_id=1,
    )
    assert encode_prompt(tokenizer, "hello", chat=True)[:2] != [1, 1]
    assert encode_prompt(tokenizer, "hello", chat=False)[:2] == [1, 1]


def run(*args, stdin=None):
    return CliRunner().invoke(cli, ["run", *map(str, args)], input=stdin)


def test_cli_streams_text_to_stdout_and_the_speed_to_stderr(tiny, tiny_base):
    result = run(tiny_base, "--prompt", "abc", "--max-tokens", 5, "--threads", 1)
    assert result.stdout == tiny.generate("abc", max_tokens=5).text + "\n"
    for word in ("5 tokens after 3 (length)", "prefill", "CPUExecutionProvider", "1 threads"):
        assert word in result.stderr


def test_cli_json_is_alone_on_stdout(tiny, tiny_base):
    result = run(tiny_base, "--prompt", "-", "--max-tokens", 5, "--json", stdin="abc\n")
    report = json.loads(result.stdout)
    assert tuple(report["tokens"]) == tiny.generate("abc", max_tokens=5).tokens
    assert report["provider"] == "CPUExecutionProvider"
    assert result.stderr == ""


def test_cli_refuses_a_device_that_is_not_there(tiny_base, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    result = run(tiny_base, "--prompt", "abc", "--device", "cuda")
    assert isinstance(result.exception, KronqError)
    assert run(tiny_base, "--prompt", "abc", "--device", "tpu").exit_code == 2


@pytest.mark.slow
def test_the_real_model_equals_torch(smollm_base, smollm_hf):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = "The capital of France is"
    session = Session(smollm_base)
    model = AutoModelForCausalLM.from_pretrained(smollm_hf, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(smollm_hf)(prompt, return_tensors="pt").input_ids
    assert session.tokenize(prompt) == ids[0].tolist()
    with torch.no_grad():
        expected = model(ids).logits.numpy()
        greedy = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert abs(session.logits(ids.numpy()) - expected).max() < 1e-3
    assert list(session.generate(prompt, max_tokens=12).tokens) == greedy.tolist()


@pytest.mark.slow
def test_the_real_model_chats(smollm_base):
    result = Session(smollm_base).generate("What is the capital of France?", chat=True)
    assert result.text == "The capital of France is Paris."
    assert result.stopped == "eos"
