"""The server under the load of hey, a program that knows nothing of it (Debian's package hey)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from kronq.pool.importing import import_adapters
from tests.engine.pool_app import export_app, has_operator, save_adapters
from tests.serve.server import running

HEY = shutil.which("hey")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(HEY is None, reason="needs hey"),
    pytest.mark.skipif(not has_operator(), reason="needs a C compiler"),
]

REQUESTS, CLIENTS = 60, 15


def load(url: str, model: str) -> subprocess.Popen[str]:
    """Begins requests for one adapter, as many at a time as there are clients."""
    body = {"model": model, "prompt": "abc", "max_tokens": 8, "temperature": 0}
    command = [
        *(str(HEY), "-n", str(REQUESTS), "-c", str(CLIENTS), "-t", "0", "-m", "POST"),
        *("-T", "application/json", "-d", json.dumps(body), f"{url}/v1/completions"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def statuses(done: subprocess.Popen[str]) -> dict[int, int]:
    """How many answers had each status."""
    out, _ = done.communicate(timeout=120)
    return {int(code): int(n) for code, n in re.findall(r"\[(\d+)\]\s+(\d+) responses", out)}


def test_two_adapters_at_once_by_more_clients_than_there_is_room(tiny_base, tmp_path):
    """Each request is answered (200) or refused as there is no room (429), and nothing is left."""
    app, files = export_app(tiny_base, tmp_path / "app"), save_adapters(tmp_path / "files")
    names, pool = list(files)[:2], tmp_path / "pool"
    assert all(each.entry for each in import_adapters(pool, {n: str(files[n]) for n in names}))
    with running(app, engine={"pool": pool}, queue=8) as server:

        def texts() -> list[str]:
            asked = {"prompt": "abc", "max_tokens": 8, "temperature": 0}
            answers = [server.post("/v1/completions", model=name, **asked) for name in names]
            return [answer.json()["choices"][0]["text"] for answer in answers]

        before = texts()
        for done in [load(server.url, name) for name in names]:
            codes = statuses(done)
            assert set(codes) <= {200, 429}
            assert codes[200] > CLIENTS
            assert sum(codes.values()) == REQUESTS
        counts = server.service.engine.counts
        assert (counts.running, counts.waiting) == (0, 0)
        assert texts() == before
    assert before[0] != before[1]
