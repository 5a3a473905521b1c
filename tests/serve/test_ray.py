"""Two replicas under Ray Serve, one of which is killed while both answer: `make ray`."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import openai
import psutil
import pytest

from kronq import Pool, Session
from kronq.errors import ArgumentError
from kronq.pool.importing import import_adapters
from tests.engine.pool_app import export_app, has_operator, save_adapters

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_operator(), reason="needs a C compiler"),
]

CLIENTS, REQUESTS = 6, 150


@pytest.fixture(scope="module")
def app(tiny_base, tmp_path_factory):
    return export_app(tiny_base, tmp_path_factory.mktemp("ray-app") / "app")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_adapters(tmp_path_factory.mktemp("ray-adapters") / "files")


@pytest.fixture(scope="module")
def pool(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("ray-pool") / "pool"
    assert all(each.entry for each in import_adapters(path, {n: str(p) for n, p in files.items()}))
    return path


@pytest.fixture(scope="module")
def url(app, pool):
    from kronq.serve.ray import application

    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        settings = {"path": str(app), "pool": str(pool), "num_replicas": "2", "rows": 3}
        serve.run(application(settings))
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas():
    """The processes of the replicas that this test has started."""
    mine = psutil.Process().children(recursive=True)
    return [each for each in mine if each.cmdline()[:1] and "ServeReplica" in each.cmdline()[0]]


def running():
    states = serve.status().applications["default"].deployments["kronq"].replica_states
    return states.get("RUNNING", 0)


def test_a_replica_is_killed_under_load(url, app, pool, files):
    """Every answer is of the adapter that was asked for; what was in the killed one is asked again.

    Requests that fail are no more than were on their way when it was killed.
    """
    alone = Session(app, files, device="cpu", threads=1)
    names = [None, *files]
    texts = {name: alone.generate("abc", adapter=name, max_tokens=30).text for name in names}
    with Pool.open(pool) as opened:
        digests = {name: f"sha256:{opened.find(name).digest}" for name in files} | {None: "base"}
    lock, failed, killed = threading.Lock(), [], threading.Event()
    done = 0
    before = replicas()
    assert len(before) == running() == 2

    def ask(number):
        nonlocal done
        name = names[number % len(names)]
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        while True:
            begin = time.monotonic()
            try:
                raw = client.completions.with_raw_response.create(
                    model=name or "app", prompt="abc", max_tokens=30, temperature=0
                )
            except openai.APIError as error:
                with lock:
                    failed.append((begin, error))
                continue
            assert raw.headers["X-Kronq-Adapter-Digest"] == digests[name]
            assert raw.parse().choices[0].text == texts[name]
            with lock:
                done += 1
                if done == REQUESTS // 3 and not killed.is_set():
                    before[0].kill()
                    killed.set()
            return

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, range(REQUESTS)))
    assert done == REQUESTS
    assert len(failed) <= CLIENTS, failed
    assert not before[0].is_running()
    end = time.monotonic() + 60
    while running() < 2:
        assert time.monotonic() < end, "Ray has not replaced it"
        time.sleep(0.2)
    assert before[0].pid not in [each.pid for each in replicas()]


def test_a_stream_through_ray(url, app, files):
    name = next(iter(files))
    expected = Session(app, files, device="cpu", threads=1).generate(
        "abc", adapter=name, max_tokens=20
    )
    client = openai.OpenAI(base_url=url, api_key="none", timeout=60)
    chunks = list(
        client.completions.create(
            model=name, prompt="abc", max_tokens=20, temperature=0, stream=True
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text
    assert len(chunks) > 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "path: Field required"),
        ({"path": "app", "num_replicas": 0}, "num_replicas: Input should be greater than 0"),
        ({"path": "app", "unheard": 1}, "unheard: Extra inputs are not permitted"),
    ],
)
def test_settings_that_are_wrong(settings, message):
    from kronq.serve.ray import application

    with pytest.raises(ArgumentError, match=message):
        application(settings)
