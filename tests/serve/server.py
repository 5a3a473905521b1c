"""A server of the tiny llama on a port of this machine, in a thread of the test."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import uvicorn

from kronq import Engine
from kronq.engine.row_adapters import RowAdapters
from kronq.serve.catalog import Catalog
from kronq.serve.run import server_config
from kronq.serve.service import ServerOptions, Service

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_template(base: Path, out: Path) -> Path:
    """A copy of a model folder whose tokenizer has a chat template."""
    shutil.copytree(base, out)
    file = out / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return out


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        url: Where.
        service: What it serves.
    """

    url: str
    service: Service

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def post(self, path: str, **data: object) -> httpx.Response:
        return httpx.post(self.url + path, json=data, timeout=60)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)


@contextmanager
def running(
    base: Path,
    *,
    adapters: RowAdapters | None = None,
    catalog: dict | None = None,
    engine: dict | None = None,
    **options: object,
) -> Iterator[Running]:
    made = Engine(base, **{"rows": 3, "chunk": 16, "threads": 1, **(engine or {})})
    if adapters is not None:
        made.adapters = made._batch._adapters = adapters
    names = Catalog("tiny", made.adapters, **(catalog or {}))
    service = Service(made, names, ServerOptions("tiny", **options))
    server = uvicorn.Server(server_config(service, port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", service)
    finally:
        server.should_exit = True
        thread.join(30)
