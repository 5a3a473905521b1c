"""The server as OpenAI's own client sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kronq import Session
from kronq.errors import NotFoundError
from tests.paths import ROOT
from tests.serve.server import running, with_template


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory):
    return with_template(tiny_base, tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="module")
def alone(base):
    return Session(base, device="cpu", threads=1)


class Named:
    """Adapters that are names and digests alone: each row is the base's."""

    def __init__(self, *names):
        self.names = list(names)
        self.held = []

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)

    def __contains__(self, name):
        return name in self.names

    def find(self, name):
        if name not in self.names:
            raise NotFoundError("no such adapter", found=name)
        self.held.append(name)
        return SimpleNamespace(name=name, digest=f"{len(name):064x}")

    def release(self, adapter):
        self.held.remove(adapter.name)

    def inputs(self, _rows):
        return {}


@pytest.fixture(scope="module")
def server(base):
    with running(base, adapters=Named("arc", "style"), queue=4) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_completion(client, alone):
    expected = alone.generate("abc", max_tokens=12)
    found = client.completions.create(model="tiny", prompt="abc", max_tokens=12, temperature=0)
    assert found.choices[0].text == expected.text
    assert found.choices[0].finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 12)
    assert found.object == "text_completion"


def test_a_streamed_completion(client, alone):
    expected = alone.generate("abc", max_tokens=12)
    chunks = list(
        client.completions.create(
            model="tiny",
            prompt="abc",
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == expected.text
    assert len(chunks) > 4
    assert [c.choices[0].finish_reason for c in chunks[-2:-1]] == ["length"]
    assert chunks[-1].usage.total_tokens == 15


def test_several_prompts_and_several_texts(client, alone):
    prompts = ["abc", "x y z"]
    found = client.completions.create(
        model="tiny", prompt=prompts, n=2, max_tokens=6, temperature=1.0, seed=5
    )
    texts = [choice.text for choice in found.choices]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert texts[0] != texts[1]
    assert found.usage.prompt_tokens == 3 + 5
    again = client.completions.create(
        model="tiny", prompt=prompts[1], n=2, max_tokens=6, temperature=1.0, seed=5
    )
    assert [choice.text for choice in again.choices] == texts[2:]


def test_tokens_as_a_prompt(client, alone):
    ids = alone.tokenize("abc")
    found = client.completions.create(model="tiny", prompt=ids, max_tokens=5, temperature=0)
    assert found.choices[0].text == alone.generate("abc", max_tokens=5).text


def test_a_conversation(client, alone):
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "Hello"}]
    expected = alone.generate(messages, max_tokens=8)
    found = client.chat.completions.create(
        model="tiny", messages=messages, max_completion_tokens=8, temperature=0
    )
    assert found.choices[0].message.content == expected.text
    assert found.choices[0].message.role == "assistant"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    stream = client.chat.completions.create(
        model="tiny", messages=[messages[0], *parts], max_tokens=8, temperature=0, stream=True
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected.text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_stop_strings(client, alone):
    text = alone.generate("abc", max_tokens=40).text
    stop = text[8:10]
    found = client.completions.create(
        model="tiny", prompt="abc", max_tokens=40, temperature=0, stop=[stop, "never"]
    )
    assert stop
    assert found.choices[0].text == text[: text.find(stop)]
    assert found.choices[0].finish_reason == "stop"


def test_models(client):
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["tiny", "arc", "style"]
    assert (models["arc"].parent, models["arc"].root) == ("tiny", "tiny")
    assert models["tiny"].parent is None
    assert client.models.retrieve("arc").id == "arc"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_digest_of_what_answered_comes_back(client, server):
    for model, digest in (("arc", f"sha256:{3:064x}"), ("tiny", "base")):
        create = client.completions.with_raw_response.create
        for stream in (False, True):
            found = create(model=model, prompt="abc", max_tokens=2, stream=stream)
            assert found.headers["X-Kronq-Adapter-Digest"] == digest
            if stream:
                list(found.parse())
    assert server.service.engine.adapters.held == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "other"}, openai.NotFoundError, "The model `other` does not exist"),
        ({"max_tokens": 62}, openai.BadRequestError, "maximum context length is 64 tokens"),
        ({"prompt": "a" * 64}, openai.BadRequestError, "maximum context length is 64 tokens"),
        ({"prompt": ""}, openai.BadRequestError, "the prompt is empty"),
        ({"prompt": [300]}, openai.BadRequestError, "not tokens of this model"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"logprobs": 3}, openai.BadRequestError, "does not know logprobs"),
        ({"n": 50}, openai.BadRequestError, "50 texts in a request; this server takes 7"),
        ({"extra_body": {"unheard": 1}}, openai.BadRequestError, "unheard"),
    ],
)
def test_requests_that_are_refused(client, server, settings, error, message):
    with pytest.raises(error, match=message):
        client.completions.create(**{"model": "tiny", "prompt": "abc", **settings})
    assert server.service.engine.adapters.held == []


def test_bodies_that_are_refused(server):
    url = f"{server.url}/v1/completions"
    plain = httpx.post(url, content=b"{}", headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    for body in (b"{", b"[]", b'{"model": "tiny", "prompt": "\\uD800"}', b"[" * 100_000):
        damaged = httpx.post(url, content=body, headers={"Content-Type": "application/json"})
        assert damaged.status_code == 400, body[:40]
    assert server.post("/v1/load_lora_adapter", lora_name="a", lora_path="b").status_code == 404
    wrong = server.get("/v1/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["type"] == "invalid_request_error"


def test_a_large_body_is_refused(server, monkeypatch):
    monkeypatch.setattr("kronq.limits.REQUEST", type("Limit", (), {"value": 100})())
    assert server.post("/v1/completions", prompt="a" * 200).status_code == 413


def test_a_full_server_asks_to_try_again(base):
    """Of 20 requests at a time on 3 rows and a queue of 2; all are done by trying again."""
    with running(base, queue=2) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        found, refused = [], []

        def ask():
            while True:
                try:
                    found.append(client.completions.create(model="tiny", prompt="abc", n=2))
                except openai.RateLimitError as error:
                    refused.append(error.response.headers["Retry-After"])
                    time.sleep(0.02)
                else:
                    return

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(found) == 20
    assert set(refused) == {"1"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_row(base, stream):
    """The row is free long before the text would have been written."""
    with running(base, engine={"rows": 1}) as server:
        engine = server.service.engine
        step = engine._batch.step
        engine._batch.step = lambda: (time.sleep(0.05), step())[1]  # 60 tokens take 3 s
        data = {"model": "tiny", "prompt": "abc", "max_tokens": 60, "stream": stream}
        with httpx.Client() as client:
            request = client.build_request("POST", f"{server.url}/v1/completions", json=data)
            if stream:
                response = client.send(request, stream=True)
                next(response.iter_lines())
                response.close()
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(str(request.url), json=data, timeout=0.3)
        begin = time.monotonic()
        until(lambda: engine.counts.running == 0)
        assert time.monotonic() - begin < 0.5
        assert engine.counts.new_tokens < 30


def test_keys(base):
    with running(base, api_keys=("one", "two")) as server:
        assert server.client("two").models.list().data
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            server.client("three").models.list()
        assert server.get("/v1/models").status_code == 401
        for path in ("/health", "/ready", "/metrics"):
            assert server.get(path).status_code == 200


def test_other_hosts_are_refused(base):
    """A page of another host, whose name was made to stand for this machine."""
    with running(base, hosts=("127.0.0.1",)) as server:
        assert server.get("/v1/models").status_code == 200
        found = httpx.get(f"{server.url}/v1/models", headers={"Host": "evil.example"})
        assert found.status_code == 400


def test_metrics(base):
    with running(base, adapters=Named("arc")) as server:
        client = server.client()
        client.completions.create(model="tiny", prompt="abc", max_tokens=5)
        list(client.completions.create(model="arc", prompt="ab", max_tokens=5, stream=True))
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="ab")
        page = server.get("/metrics").text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["kronq_requests_total", "200"] == 2
    assert samples["kronq_requests_total", "404"] == 1
    assert samples["kronq_prompt_tokens_total",] == 5
    assert samples["kronq_new_tokens_total",] == 10
    assert samples["kronq_running",] == samples["kronq_waiting",] == 0
    assert samples["kronq_adapters",] == 1
    assert samples["kronq_time_to_first_token_seconds_count",] == 2


def test_an_engine_that_fails_is_not_healthy(base):
    """An error that is of no row, as a mistake in the program would be."""
    with running(base) as server:
        assert server.get("/ready").status_code == 200

        def fail():
            raise ZeroDivisionError

        server.service.engine._batch.step = fail
        with pytest.raises(openai.InternalServerError, match="the engine has stopped"):
            server.client().completions.create(model="tiny", prompt="abc")
        assert server.get("/health").status_code == 503
        assert server.get("/ready").status_code == 503
        with pytest.raises(openai.InternalServerError, match="stopping"):
            server.client().completions.create(model="tiny", prompt="abc")


def test_sigterm_ends_the_server_after_its_texts(base):
    command = [sys.executable, "-m", "kronq", "serve", str(base), "--port", "0", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        url = next(line.split()[0] for line in process.stderr if line.startswith("http"))
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        stream = client.completions.create(
            model="tiny", prompt="abc", max_tokens=60, temperature=0, stream=True
        )
        chunks = [next(stream)]
        process.send_signal(signal.SIGTERM)
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert process.wait(20) == 0
