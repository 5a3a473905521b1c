"""Clients of ``kronq serve`` that are slow, or many: the others are served meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kronq.serve import connections
from tests.serve.server import Running, running

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
OK = b"ok\n"


@pytest.fixture(scope="module")
def server(tiny_base: Path) -> Iterator[Running]:
    with running(tiny_base, queue=4) as server:
        yield server


@contextmanager
def connected(server: Running, count: int) -> Iterator[list[socket.socket]]:
    address = urlsplit(server.url)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                closing(socket.create_connection((address.hostname, address.port), 30))
            )
            for _ in range(count)
        ]


def complete(server: Running) -> None:
    """Another client's text."""
    answer = server.post("/v1/completions", model="tiny", prompt="abc", max_tokens=2)
    assert answer.status_code == 200


def received(connection: socket.socket, end: bytes = b"") -> bytes:
    """What comes up to an end, or until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1000):
            found += piece
            if end and found.endswith(end):
                break
    return found


def test_bodies_that_are_announced_and_not_sent(server: Running) -> None:
    """A hundred clients that send a head, a byte and no more hold no row and nobody up."""
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 10000000000\r\n\r\n{"
    )
    with connected(server, 100) as slow:
        for each in slow:
            each.sendall(head)
        complete(server)
        assert server.service.engine.counts.running == 0


def test_heads_that_never_end(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are closed, those of a first request and those of a later one."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connected(server, 50) as slow:
        for each in slow[:25]:
            each.sendall(HEALTH + b"\r\n")
            assert received(each, OK).startswith(b"HTTP/1.1 200")
        for each in slow:
            each.sendall(HEALTH + b"A: ")
        complete(server)
        for each in slow:
            assert received(each) == b""


def test_clients_that_say_nothing(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with connected(server, 50) as silent:
        complete(server)
        for each in silent:
            assert received(each) == b""


def test_a_head_that_is_slow_and_comes(server: Running) -> None:
    with connected(server, 1) as (slow,):
        for byte in HEALTH + b"\r\n":
            slow.sendall(bytes([byte]))
        assert received(slow, OK).startswith(b"HTTP/1.1 200")


def test_more_connections_than_are_allowed(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the bound are closed at once; the ones before are served."""
    monkeypatch.setattr(connections, "most_connections", lambda: 40)
    with httpx.Client(timeout=60, trust_env=False) as client:
        assert client.get(f"{server.url}/health").status_code == 200
        with connected(server, 60) as many:
            for each in many[45:]:
                assert received(each) == b""
            assert client.get(f"{server.url}/health").status_code == 200
    complete(server)


def test_the_bound_leaves_files_for_adapters() -> None:
    resource = pytest.importorskip("resource")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        pytest.skip("as many files as one likes")
    assert 16 <= connections.most_connections() <= max(files // 2, 16)


def test_an_answer_that_nobody_reads(server: Running) -> None:
    """Its text ends, its row is free, and others are served meanwhile."""
    body = b'{"model": "tiny", "prompt": "abc", "max_tokens": 100, "stream": true}'
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    with connected(server, 3) as deaf:  # as many as there are rows
        for each in deaf:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            each.sendall(head + body)
        complete(server)
        complete(server)
