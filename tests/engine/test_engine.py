"""Texts of a batch equal those that each prompt gets alone, whoever joins and leaves beside it."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from kronq import Engine, Listener, Session
from kronq.engine.sampler import choose_token
from kronq.errors import KronqError, UnsupportedError
from kronq.genai.sampling import Sampling

PROMPTS = ["abc", "The quick brown fox jumps over", "x", "a" * 40, "How are you?", "zz top", "One"]


@pytest.fixture(scope="module")
def alone(tiny_base):
    """The text of a prompt by onnxruntime-genai, which has no other row beside it."""
    return Session(tiny_base, device="cpu", threads=1)


def engine_of(base, **settings):
    return Engine(base, **{"rows": 3, "chunk": 7, "threads": 1, **settings})


def run(engine):
    while engine.step():
        pass


@pytest.mark.parametrize(("rows", "chunk"), [(1, 64), (2, 1), (3, 7), (8, 64)])
def test_every_text_is_what_it_is_alone(tiny_base, alone, rows, chunk):
    found = engine_of(tiny_base, rows=rows, chunk=chunk).generate(PROMPTS, max_tokens=15)
    expected = [alone.generate(prompt, max_tokens=15) for prompt in PROMPTS]
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [each.text for each in found] == [each.text for each in expected]
    assert [each.prompt_tokens for each in found] == [each.prompt_tokens for each in expected]


@pytest.mark.parametrize("name", ["fp32 fused whole", "fp16", "int4", "int4 fused whole"])
def test_bases_of_every_kind(llama_bases, name):
    """Tokens of each prompt are the likeliest by runs without any cache."""
    session = Session(llama_bases / name, device="cpu", threads=1)
    found = engine_of(llama_bases / name).generate(PROMPTS[:4], max_tokens=6)
    for prompt, generation in zip(PROMPTS, found, strict=False):
        ids = session.tokenize(prompt)
        for token in generation.tokens:
            logits = session.logits(ids)[0, -1]
            assert logits[token] >= logits.max() - 1e-3 * abs(logits).max()
            ids.append(token)


def test_phi_with_its_own_attention(phi3_bases):
    session = Session(phi3_bases / "fp32", device="cpu", threads=1)
    found = engine_of(phi3_bases / "fp32").generate(PROMPTS[:4], max_tokens=8)
    expected = [session.generate(prompt, max_tokens=8) for prompt in PROMPTS[:4]]
    assert [each.tokens for each in found] == [each.tokens for each in expected]


def test_rows_join_and_leave_at_random(tiny_base, alone):
    random = np.random.default_rng(0)
    engine = engine_of(tiny_base, rows=4, chunk=5)
    jobs = []
    for _ in range(150):
        if random.random() < 0.3:
            prompt = "".join(random.choice(list("abcdefgh "), random.integers(1, 30)))
            length = int(random.integers(1, 20))
            jobs.append((prompt, length, engine.submit(prompt, max_tokens=length)))
        if jobs and random.random() < 0.05:
            jobs[random.integers(len(jobs))][2].cancel()
        engine.step()
    run(engine)
    assert len(jobs) > 30
    for prompt, length, job in jobs:
        tokens = job.generation.tokens
        expected = alone.generate(prompt, max_tokens=length).tokens
        assert tokens == expected[: len(tokens)]
        assert job.cancelled or len(tokens) == len(expected)


def test_a_cancelled_row_is_free_before_the_next_run(tiny_base):
    engine = engine_of(tiny_base, rows=2, chunk=64)
    ended = []
    jobs = [
        engine.submit(p, max_tokens=50, listener=Listener(done=ended.append)) for p in PROMPTS[:3]
    ]
    for _ in range(4):
        engine.step()
    assert (engine.counts.running, engine.counts.waiting) == (2, 1)
    jobs[0].cancel()
    engine.step()
    assert ended == [jobs[0]]
    assert jobs[0].generation.stopped == "cancelled"
    assert (engine.counts.running, engine.counts.waiting) == (2, 0)
    jobs[2].cancel()
    jobs[1].cancel()
    assert not engine.step()
    assert engine.counts.running == 0


def test_a_waiting_text_is_cancelled(tiny_base):
    engine = engine_of(tiny_base, rows=1)
    jobs = [engine.submit("abc", max_tokens=3) for _ in range(2)]
    jobs[1].cancel()
    run(engine)
    assert [job.generation.stopped for job in jobs] == ["length", "cancelled"]
    assert jobs[1].generation.tokens == ()


def test_stop_strings_and_pieces(tiny_base, alone):
    text = alone.generate("abc", max_tokens=20).text
    stop = text[8:10]
    pieces = []
    engine = engine_of(tiny_base)
    job = engine.submit("abc", max_tokens=20, stop=stop, listener=Listener(text=pieces.append))
    run(engine)
    expected = alone.generate("abc", max_tokens=20, stop=stop)
    assert (job.generation.text, job.generation.stopped) == (expected.text, expected.stopped)
    assert "".join(pieces) == expected.text


def test_the_context_is_never_exceeded(tiny_base):
    engine = engine_of(tiny_base)
    assert engine.context == 64
    assert len(engine.generate(["a" * 60], max_tokens=50)[0].tokens) == 4
    assert len(engine_of(tiny_base, context=20).generate(["a" * 15])[0].tokens) == 5
    with pytest.raises(KronqError, match="the prompt fills the context; found 64 tokens"):
        engine.submit("a" * 64)


def test_a_seed_gives_one_text_in_any_company(tiny_base):
    settings = {"max_tokens": 12, "temperature": 1.0}
    engine = engine_of(tiny_base)
    one = engine.generate(["abc"], seed=1, **settings)[0].tokens
    job = engine.submit("abc", seed=1, **settings)
    others = [engine.submit(prompt, **settings) for prompt in PROMPTS]
    run(engine)
    assert job.generation.tokens == one
    assert all(other.done for other in others)
    assert engine.generate(["abc"], seed=2, **settings)[0].tokens != one


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=0.7), 5),
        (Sampling(temperature=0.7, top_k=3), 3),
        (Sampling(temperature=0.7, top_p=0.6), 2),
        (Sampling(temperature=0.7, top_k=4, top_p=0.1), 1),
        (Sampling(temperature=1e-30), 1),
    ],
)
def test_draws_follow_the_probabilities(sampling, allowed):
    """Of five tokens with known probabilities at the temperature 0.7."""
    probabilities = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
    logits = (0.7 * np.log(probabilities)).astype(np.float32)
    random = np.random.default_rng(0)
    counts = Counter(choose_token(logits, sampling, random) for _ in range(4000))
    kept = np.argsort(-probabilities)[:allowed]
    expected = probabilities[kept] / probabilities[kept].sum()
    assert set(counts) == set(kept.tolist())
    np.testing.assert_allclose([counts[t] / 4000 for t in kept], expected, atol=0.03)


def test_an_error_of_one_row_ends_that_row_alone(tiny_base, alone):
    """A model whose second row fails, as an operator fails that finds a wrong record."""
    engine = engine_of(tiny_base)
    jobs = [engine.submit(prompt, max_tokens=10) for prompt in PROMPTS[:3]]
    bad = jobs[1]

    class FailsForOne:
        def find(self, name):
            raise AssertionError(name)

        def inputs(self, rows):
            if bad_adapter in rows:
                raise KronqError("the record is of another adapter")
            return {}

    bad_adapter = object()
    for _ in range(5):
        engine.step()
    engine._batch._adapters = FailsForOne()
    bad.adapter = bad_adapter
    run(engine)
    with pytest.raises(KronqError, match="the record is of another adapter"):
        _ = bad.generation
    for prompt, job in zip(PROMPTS, jobs, strict=False):
        if job is not bad:
            assert job.generation.tokens == alone.generate(prompt, max_tokens=10).tokens


def test_tokens_as_a_prompt(tiny_base, alone):
    engine = engine_of(tiny_base)
    found = engine.generate([alone.tokenize("abc")], max_tokens=5)[0]
    assert found.tokens == alone.generate("abc", max_tokens=5).tokens
    with pytest.raises(KronqError, match="not tokens of this model; found 258"):
        engine.submit([3, 258])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "nothing to generate"),
        ({"temperature": -1.0}, "not a temperature"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "not tokens of this model"),
        ({"chat": True}, "no usable chat template"),
        ({"adapter": "arc"}, "no such adapter; found arc"),
    ],
)
def test_impossible_settings(tiny_base, settings, message):
    with pytest.raises(KronqError, match=message):
        engine_of(tiny_base).submit(**{"prompt": "abc", **settings})


def test_an_adapter_for_each_prompt(tiny_base):
    with pytest.raises(KronqError, match="an adapter for each prompt; found 1; expected 2"):
        engine_of(tiny_base).generate(["a", "b"], adapters=[None])


def test_what_does_not_batch_is_refused(tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["sliding_window"] = {"window_size": 8, "layers": [0]}
    (folder / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="does not batch rows of different lengths"):
        Engine(folder)
    with pytest.raises(KronqError, match="rows has to be positive"):
        Engine(tiny_base, rows=0)
