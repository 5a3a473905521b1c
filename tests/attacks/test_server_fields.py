"""Requests of wrong types, sizes and names to a server with a folder of adapters."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kronq import Pool
from kronq.engine.engine import Engine
from kronq.errors import ArgumentError
from kronq.serve import bodies_read
from tests.engine.pool_app import export_app, has_operator, save_adapters
from tests.serve.server import Running, running, with_template

pytestmark = pytest.mark.skipif(not has_operator(), reason="needs a C compiler")

TEXTS, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD: dict[str, object] = {"model": "tiny", "prompt": "abc", "max_tokens": 2}
NUMBERS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "n")
WRONG: list[tuple[str, object]] = [
    *((name, value) for name in NUMBERS for value in (True, "1", [1], {"a": 1}, -1e18, "NaN")),
    *((name, 1e18) for name in ("max_tokens", "top_p", "top_k", "seed", "n")),
    *((name, value) for name in ("stream", "stream_options") for value in (1, "true", [True])),
    *(("stream_options", {"include_usage": value}) for value in (1, "true", None)),
    *(("model", value) for value in (None, 1, True, ["tiny"], {"tiny": 1})),
    *(("prompt", value) for value in (None, 1, True, [True], [[True]], [1.0], ["a", 1], [["a"]])),
    *(("prompt", value) for value in ([10**6], [[1], [10**6]], [-1], [[]], {"a": 1})),
    *(("prompt", value) for value in ("a\0b", ["ab", "a\0b"], "\0", " " * 10_000_000)),
    *(("stop", value) for value in (1, True, [1], [None], [["a"]], {"a": 1}, "a" * 10_000_000)),
    ("stop", [f"s{i}" for i in range(100_000)]),
]
MESSAGES: list[object] = [
    *({"role": "user", "content": value} for value in (None, 1, True, {"text": "a"}, ["a"])),
    *({"role": value, "content": "a"} for value in (None, 1, True, "us\0er", "x" * 1_000_000)),
    {"role": "user", "content": "a\0b"},
    {"role": "user", "content": [{"type": "text", "text": "a\0b"}]},
    {"role": "user", "content": " " * 10_000_000},
    "a",
]


@pytest.fixture(scope="module")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("fields")
    app = export_app(with_template(tiny_base, folder / "base"), folder / "app")
    adapters = next(iter(save_adapters(folder / "files").values())).parent
    (folder / "outside" / "peft").mkdir(parents=True)
    shutil.copy(adapters / "kron-float.safetensors", folder / "outside" / "secret.safetensors")
    (folder / "outside" / "peft" / "adapter_config.json").write_text("{}")
    (adapters / "linked.safetensors").symlink_to(folder / "outside" / "secret.safetensors")
    (adapters / "sub").symlink_to(folder / "outside")
    (adapters / "half").mkdir()
    (adapters / "half" / "adapter_config.json").symlink_to(
        folder / "outside" / "peft" / "adapter_config.json"
    )
    (adapters / "inside.safetensors").symlink_to(adapters / "kron-float.safetensors")
    pool = Pool.open(folder / "pool", create=True)
    settings = {"pool": pool, "folder": adapters}
    with running(app, engine={"pool": pool}, catalog=settings, queue=4) as server:
        yield server


@pytest.fixture(autouse=True)
def served_afterwards(server: Running) -> Iterator[None]:
    yield
    assert server.post(TEXTS, **GOOD).status_code == 200


def refused(answer: httpx.Response, status: int = 400) -> None:
    assert answer.status_code == status, answer.text[:300]
    assert list(answer.json()) == ["error"]
    assert len(answer.text) < 10_000


def test_fields_of_wrong_types_and_sizes(server: Running) -> None:
    for name, value in WRONG:
        refused(server.post(TEXTS, **{**GOOD, name: value}))


def test_messages_of_wrong_types_and_sizes(server: Running) -> None:
    for message in MESSAGES:
        refused(server.post(CHAT, model="tiny", messages=[message], max_tokens=2))
    many = [{"role": "user", "content": "a"}] * 100_000
    refused(server.post(CHAT, model="tiny", messages=many, max_tokens=2))


def test_names_that_are_given_twice(server: Running) -> None:
    inner = b'{"include_usage": true, "include_usage": false}'
    for body in (
        b'{"model": "other", "model": "tiny", "prompt": "abc"}',
        b'{"model": "tiny", "prompt": "abc", "stream": true, "stream_options": ' + inner + b"}",
    ):
        headers = {"Content-Type": "application/json"}
        refused(httpx.post(server.url + TEXTS, content=body, headers=headers))


@pytest.mark.parametrize(
    "name",
    [
        *("x" * 300, "x" * 100_000, "a/" * 3000 + "b", "a\nb", "a\0b", "C:/x", "C:x", "//x", "~"),
        *("../outside/secret", "sub/../linked", "sub/secret", "sub/peft", "linked", "half"),
        *("./kron-float", "kron-float/", "..\\outside\\secret", "%2e%2e/outside/secret", "\x9b"),
    ],
    ids=lambda name: ascii(name)[:24],
)
def test_names_beside_a_folder_of_adapters(server: Running, name: str) -> None:
    """Nothing outside of the folder is read, wherever its links lead."""
    refused(server.post(TEXTS, **{**GOOD, "model": name}), 404)
    assert name not in server.service.catalog._adapters


def test_links_within_the_folder(server: Running) -> None:
    assert server.post(TEXTS, **{**GOOD, "model": "inside"}).status_code == 200


def test_a_body_that_does_not_come_to_its_end(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies_read, "_SECONDS", 0.05)
    address = urlsplit(server.url)
    with closing(socket.create_connection((address.hostname, address.port), 30)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        answer = connection.recv(65536)
        while b"}}" not in answer:
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_null_character_is_no_end_of_a_prompt(server: Running) -> None:
    """The tokenizer read ``a\\0b`` as ``a``."""
    engine: Engine = server.service.engine
    for prompt in ("a\0b", [{"role": "user", "content": "a\0b"}]):
        with pytest.raises(ArgumentError, match="null character"):
            engine.encode(prompt)
