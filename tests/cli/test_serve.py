"""``kronq serve``: what it refuses before it listens."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("starlette")


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
