"""The page and a model folder on a port of this machine, as ``python -m http.server`` has it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.paths import ROOT

PAGE = ROOT / "docs/web"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def served(room: Path, packages: Path, model: Path) -> Iterator[str]:
    """The address of the page; ``room`` is an empty folder, where links to all of it go."""
    for file in PAGE.iterdir():
        if file.is_file():
            (room / file.name).symlink_to(file)
    (room / "node_modules").symlink_to(packages)
    (room / "model").symlink_to(model, target_is_directory=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(room))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
