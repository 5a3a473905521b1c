"""Adapters of a pool behind the server: by name, imported on first use, added and removed."""

from __future__ import annotations

import shutil
import threading

import openai
import pytest

from kronq import Pool, Session
from kronq.pool.folder import make_pool
from tests.engine.pool_app import export_app, has_operator, save_adapters
from tests.serve.server import running

pytestmark = pytest.mark.skipif(not has_operator(), reason="needs a C compiler")


@pytest.fixture(scope="module")
def app(tiny_base, tmp_path_factory):
    return export_app(tiny_base, tmp_path_factory.mktemp("serve-pool") / "app")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_adapters(tmp_path_factory.mktemp("serve-adapters") / "files")


@pytest.fixture(scope="module")
def alone(app, files):
    return Session(app, files, device="cpu", threads=1)


@pytest.fixture
def pool(tmp_path):
    make_pool(tmp_path / "pool")
    return Pool.open(tmp_path / "pool")


@pytest.fixture
def server(app, pool, files):
    """A server whose folder has all adapters, of which the pool has none."""
    folder = next(iter(files.values())).parent
    settings = {"pool": pool, "folder": folder}
    with running(app, engine={"pool": pool}, catalog=settings, runtime_loading=True) as server:
        yield server


def ask(client, model, prompt="abc"):
    raw = client.completions.with_raw_response.create(
        model=model, prompt=prompt, max_tokens=9, temperature=0
    )
    return raw.parse().choices[0].text, raw.headers["X-Kronq-Adapter-Digest"]


def test_adapters_are_imported_on_first_use_once(server, pool, files, alone, monkeypatch):
    """Eight clients ask for each of them at the same time."""
    added = []
    add = Pool.add
    monkeypatch.setattr(Pool, "add", lambda *args: (added.append(args[1]), add(*args))[1])
    client = server.client()
    answers = []

    def repeatedly(name):
        answers.append((name, *ask(client, name)))

    threads = [
        threading.Thread(target=repeatedly, args=(name,)) for name in [*files, None] * 8 if name
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(added) == sorted(files)
    assert len(answers) == 8 * len(files)
    for name, text, digest in answers:
        assert text == alone.generate("abc", adapter=name, max_tokens=9).text
        assert digest == f"sha256:{pool.find(name).digest}"
    assert ask(client, "tiny")[0] == alone.generate("abc", max_tokens=9).text
    assert "kronq_adapter_imports_total 6.0" in server.get("/metrics").text
    assert [model.id for model in client.models.list()] == ["tiny", *pool]
    assert not pool._view.files.pinned


@pytest.mark.parametrize("name", ["other", "../files/kron-float", "", "/etc/passwd", "a\0b", ".."])
def test_names_that_are_no_adapter(server, name):
    with pytest.raises(openai.NotFoundError):
        server.client().completions.create(model=name, prompt="abc")


def test_an_adapter_that_cannot_be_used(server, tmp_path, app, pool):
    (tmp_path / "broken.safetensors").write_bytes(b"no adapter")
    server.service.catalog._folder = tmp_path
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match="`broken` cannot be used"):
            server.client().completions.create(model="broken", prompt="abc")


def test_adapters_are_added_and_removed_by_requests(server, files, alone, tmp_path):
    """As vLLM's users do it."""
    client = server.client()
    name, other = "kron-native", "lora-float"
    add = {"lora_name": "mine", "lora_path": str(files[name])}
    found = server.post("/v1/load_lora_adapter", **add)
    assert (found.status_code, found.text) == (
        200,
        "Success: LoRA adapter 'mine' added successfully.",
    )
    assert ask(client, "mine")[0] == alone.generate("abc", adapter=name, max_tokens=9).text
    add["lora_path"] = str(files[other])
    again = server.post("/v1/load_lora_adapter", **add)
    assert again.status_code == 400
    assert "has already been loaded" in again.json()["error"]["message"]
    assert server.post("/v1/load_lora_adapter", **add, load_inplace=True).status_code == 200
    assert ask(client, "mine")[0] == alone.generate("abc", adapter=other, max_tokens=9).text
    found = server.post("/v1/unload_lora_adapter", lora_name="mine")
    assert found.text == "Success: LoRA adapter 'mine' removed successfully."
    with pytest.raises(openai.NotFoundError):
        ask(client, "mine")
    assert server.post("/v1/unload_lora_adapter", lora_name="mine").status_code == 404
    nowhere = server.post("/v1/load_lora_adapter", lora_name="a", lora_path=str(tmp_path / "x"))
    assert nowhere.status_code == 404
    base = server.post("/v1/load_lora_adapter", lora_name="tiny", lora_path=str(files[other]))
    assert base.status_code == 400


def test_another_program_adds_an_adapter(server, pool, files, alone):
    """It is seen by the next request, without a restart."""
    shutil.copy(files["lora-native"], pool.path.parent / "elsewhere.safetensors")
    Pool.open(pool.path).add("elsewhere", pool.path.parent / "elsewhere.safetensors")
    expected = alone.generate("abc", adapter="lora-native", max_tokens=9).text
    assert ask(server.client(), "elsewhere")[0] == expected


def test_a_pool_that_is_damaged_meanwhile(server, pool):
    """Requests say so; the base goes on."""
    server.client().completions.create(model="kron-float", prompt="abc")
    index = pool.path / "index.sqlite"
    index.write_bytes(b"no index" * 1000)
    with pytest.raises(openai.InternalServerError):
        server.client().completions.create(model="kron-float", prompt="abc")
    with pytest.raises(openai.InternalServerError):
        server.client().models.list()
    assert server.client().completions.create(model="tiny", prompt="abc").choices
