"""Hostile requests to ``kronq serve``: refused in one line, and the next client is served."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.attacks.mutations import change_json, json_bytes
from tests.attacks.served_files import COMPLETION
from tests.serve.server import Running, running, with_template

JSON = {"Content-Type": "application/json"}
TEXTS = "/v1/completions"
CLIENT = httpx.Client(timeout=60, trust_env=False)
STRANGE_NAMES = (
    *("x\r\nSet-Cookie: a=b", "x\nData", "\u2028", "\x1b[2J", "a\0b", "\u202e", "x" * 100_000),
    *("../tiny", "/etc/passwd", "..\\x", ".", "..", "", "tiny/", "hf://a/b", "http://127.0.0.1/"),
)


@pytest.fixture(scope="module")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = with_template(tiny_base, tmp_path_factory.mktemp("serve") / "tiny")
    with running(base, queue=4) as server:
        yield server


@pytest.fixture(autouse=True)
def served_afterwards(server: Running) -> Iterator[None]:
    yield
    found = send(server, b'{"model": "tiny", "prompt": "abc", "max_tokens": 2}')
    assert found.status_code == 200
    assert CLIENT.get(f"{server.url}/health").status_code == 200


def send(server: Running, body: bytes) -> httpx.Response:
    return CLIENT.post(server.url + TEXTS, content=body, headers=JSON)


def raw(server: Running, data: bytes, wait: float = 5) -> bytes:
    """Sends bytes and returns what comes back until the server closes, or for some seconds."""
    address = urlsplit(server.url)
    with closing(socket.create_connection((address.hostname, address.port), wait)) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


def refused(answer: httpx.Response) -> str:
    """Checks that an answer refuses a request in one line, and returns the line."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:500])
    message = answer.json()["error"]["message"]
    assert message.isprintable()
    assert len(message) < 7000  # 1,000 characters, each of them escaped
    return str(message)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b"7",
            b'"x"',
            b"\xff\xfe",
            b"\xef\xbb\xbf{}",
            b"{}" * 2,
            b"\0",
        ),
        *(b"[" * 1_000_000, b'{"a":' * 100_000, b"9" * 100_000, b'{"model": "tiny", "prompt": "'),
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "a", "\\ud800": 1}',
        b'{"model": "tiny", "prompt": "a", "x\\r\\ny": 1}',
        b'{"model": "tiny", "prompt": "\xff"}',
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "a", "temperature": Infinity}',
        b'{"model": "tiny", "prompt": "a", "max_tokens": ' + b"9" * 4000 + b"}",
        b'{"model": "tiny", "prompt": "a", "max_tokens": 1e400}',
        b'{"model": "tiny", "prompt": [' + b"[" * 400 + b"]" * 400 + b"]}",
        b'{"model": "tiny", "prompt": [' + b'"a",' * 100_000 + b'"a"]}',
        b'{"model": "tiny", "prompt": [' + b"1," * 1_000_000 + b"1]}",
        b'{"model": "tiny", "prompt": [' + b"9" * 4000 + b"]}",
        b'{"model": "tiny", "prompt": "a", "top_k": ' + b"9" * 4000 + b"}",
        b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 4000 + b"}",
        b'{"model": "tiny", "prompt": [-1]}',
        b'{"model": "tiny", "prompt": [9223372036854775808]}',
        b'{"model": "tiny", "prompt": "a", "n": 1e9}',
        b'{"model": "tiny", "prompt": "a", "stop": [' + b'"",' * 1000 + b'""]}',
        b'{"model": "tiny", "prompt": "a", "response_format": '
        + b'{"a":' * 900
        + b"1"
        + b"}" * 901,
    ],
    ids=lambda body: body[-60:].decode("ascii", "replace")[:40],
)
def test_bodies(server: Running, body: bytes) -> None:
    begun = time.process_time()
    refused(send(server, body))
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=lambda name: ascii(name)[:20])
def test_names_of_models(server: Running, name: str) -> None:
    answer = server.post(TEXTS, model=name, prompt="a")
    assert answer.status_code == 404
    refused(answer)
    assert "set-cookie" not in answer.headers


def test_paths_of_models(server: Running) -> None:
    for path in ("%0d%0aSet-Cookie:%20a=b", "..%2f..%2fetc%2fpasswd", "%00", "%ff", "x" * 5000):
        answer = httpx.get(f"{server.url}/v1/models/{path}")
        refused(answer)
        assert "set-cookie" not in answer.headers


def test_changed_requests(server: Running) -> None:
    """Each is answered, or refused in one line; none is an error of the server's own."""
    rng = random.Random(0)  # noqa: S311
    good = {**COMPLETION, "model": "tiny", "stream": False, "stream_options": None}
    statuses = set()
    for _ in range(200):
        body = json_bytes(rng, change_json(rng, json.loads(json.dumps(good))))
        answer = send(server, body)
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            refused(answer)
    assert {200, 400} <= statuses


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9x\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" * 50 + b"\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: " + b"x" * 500_000 + b"\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
    ],
    ids=range(7),
)
def test_broken_http(server: Running, head: bytes) -> None:
    begun = time.monotonic()
    answer = raw(server, head, 2)
    assert time.monotonic() - begun < 10
    assert b" 500 " not in answer[:20]


def test_a_body_without_end_is_refused_at_the_limit(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRONQ_MAX_REQUEST", "100000")

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 10_000

    try:
        answer = httpx.post(server.url + TEXTS, content=endless(), headers=JSON, timeout=60)
    except httpx.WriteError:
        return  # the server has closed the connection before all was sent
    assert answer.status_code == 413
