"""A server for the page, with the headers by which a browser lets WebAssembly use threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kronq.errors import ArgumentError

ADDRESS = "127.0.0.1"
"""This machine alone."""

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
}
"""https://developer.mozilla.org/en-US/docs/Web/API/Window/crossOriginIsolated"""


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing: a page of 40 files would fill the terminal."""


@contextmanager
def serve_folder(folder: Path, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """Gives a server of a folder that is bound to a port of this machine, and not yet running.

    Args:
        folder: The folder.
        port: 0 for any that is free.

    Raises:
        ArgumentError: The port is taken.
    """
    try:
        server = ThreadingHTTPServer((ADDRESS, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ArgumentError(
            "the port cannot be used", found=f"{port}: {error.strerror}", hint="another {port}"
        ) from None
    with server:
        yield server
