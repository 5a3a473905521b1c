"""``kronq serve``: what it refuses before it listens."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("starlette")

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture
def serve(kronq, tiny_base, monkeypatch):
    """Runs ``kronq serve``, which ends instead of answering.

    Returns what it says on stderr, the address that it listens at, and the settings.
    """
    from kronq.serve import run

    seen = []

    def listen(self, sockets):
        seen.append((sockets[0].getsockname()[0], self._service.options))
        sockets[0].close()

    monkeypatch.setattr(run._Server, "run", listen)
    monkeypatch.setattr(run, "keep_steps_even", lambda: None)
    monkeypatch.delenv("KRONQ_API_KEY", raising=False)

    def call(*options):
        result = kronq("serve", tiny_base, "--port", 0, "--threads", 1, *options)
        assert result.code == 0, result.err
        return (result.err, *seen.pop())

    return call


def test_it_listens_to_this_machine_alone_by_default(serve):
    said, address, options = serve()
    assert address == "127.0.0.1"
    assert options.api_keys == ()
    assert {"127.0.0.1", "localhost"} <= set(options.hosts)
    assert "*" not in options.hosts
    assert "whoever" not in said


def test_other_machines_are_let_in_with_a_note_or_a_key(serve, monkeypatch):
    said, address, options = serve("--host", EVERYWHERE)
    assert (address, options.hosts, options.api_keys) == (EVERYWHERE, ("*",), ())
    assert "note: whoever reaches this address may use it; --api-key asks for a key" in said
    said, _, options = serve("--host", EVERYWHERE, "--api-key", "one", "--api-key", "two")
    assert options.api_keys == ("one", "two")
    assert "whoever" not in said
    monkeypatch.setenv("KRONQ_API_KEY", "secret")
    said, _, options = serve("--host", EVERYWHERE)
    assert options.api_keys == ("secret",)
    assert "whoever" not in said


def test_a_port_that_is_taken(kronq, tiny_base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = kronq("serve", tiny_base, "--port", port)
    assert result.code == 2
    assert f"the address cannot be used; found 127.0.0.1:{port}" in result.err


def test_what_is_no_model(kronq, tmp_path):
    assert "no such file or folder" in kronq.refuses("serve", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no ONNX model in the folder" in kronq.refuses("serve", tmp_path / "empty")
