"""`kronq serve` as a program of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import openai
import pytest

from kronq import Pool, Pooled, Session, Slots, export_onnx
from kronq.pool.importing import import_adapters
from tests.engine.pool_app import make_adapter, save_adapters
from tests.paths import ROOT

EVEN = """
import gc, sys
import kronq.serve.app, kronq.engine.engine
from kronq.serve.stepping import keep_steps_even

before = len(gc.get_objects())
keep_steps_even()
print(before, len(gc.get_objects()), sys.getswitchinterval())
"""


def test_collecting_garbage_does_not_go_through_what_was_loaded():
    """A collection takes as long as there are objects that it goes through."""
    done = subprocess.run(
        [sys.executable, "-c", EVEN], capture_output=True, text=True, check=True, cwd=ROOT
    )
    before, after, interval = done.stdout.split()
    assert int(before) > 20_000
    assert int(after) < 1000
    assert float(interval) < 0.001


@pytest.mark.slow
def test_a_pool_in_front_of_onnx_s_own_operators(tiny_base, tmp_path):
    """`--form pool --no-kernel`: each request gets the adapter that it asks for, and its digest."""
    app, plain, pool = tmp_path / "app", tmp_path / "plain", tmp_path / "pool"
    export_onnx(make_adapter(0), tiny_base, app, Pooled(compiled=False), verify=False)
    export_onnx(make_adapter(0), tiny_base, plain, Slots(compiled=False), verify=False)
    files = save_adapters(tmp_path / "files")
    assert all(each.entry for each in import_adapters(pool, {n: str(p) for n, p in files.items()}))
    alone = Session(plain, files, device="cpu", threads=1)
    with Pool.open(pool) as opened:
        digests = {name: f"sha256:{opened.find(name).digest}" for name in files} | {None: "base"}
    command = [sys.executable, "-m", "kronq", "serve", str(app), "--pool", str(pool), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        url = next(line.split()[0] for line in process.stderr if line.startswith("http"))
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        for name in (None, *files):
            raw = client.completions.with_raw_response.create(
                model=name or "app", prompt="abc", max_tokens=8, temperature=0
            )
            expected = alone.generate("abc", adapter=name, max_tokens=8).text
            assert raw.parse().choices[0].text == expected
            assert raw.headers["X-Kronq-Adapter-Digest"] == digests[name]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
