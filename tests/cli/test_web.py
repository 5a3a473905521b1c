"""``kronq web``: the folder it writes, what it refuses, and what it serves."""

from __future__ import annotations

import json
import os
import shutil
import threading
import urllib.request
from pathlib import Path

import pytest

from kronq import Adapter, KronqError, Slots, export_onnx, quantize, save
from kronq.web import packages
from kronq.web.serve import ADDRESS, serve_folder
from tests.evaluate.tiny import tiny_adapter


@pytest.fixture(scope="module")
def app(tiny_base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("web") / "app"
    export_onnx(tiny_adapter(), tiny_base, out, form=Slots(compiled=False), verify=False)
    return out


@pytest.fixture
def installed(tmp_path, monkeypatch) -> None:
    """A cache with packages of no content."""
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    names = [packages.PAGE / name for name in ("package.json", "package-lock.json")]
    modules = packages.cache_folder("web") / packages.digest_files(names) / "node_modules"
    for name in ("onnxruntime-web/dist/ort.wasm.min.mjs", "flatbuffers/mjs/flatbuffers.js"):
        (modules / name).parent.mkdir(parents=True)
        (modules / name).write_text("")


@pytest.fixture
def packed(tmp_path) -> Path:
    return save(quantize(tiny_adapter(), bits=4), tmp_path / "small.safetensors")


def test_it_writes_a_folder_that_any_server_serves(installed, app, packed, tmp_path, kronq) -> None:
    site = tmp_path / "site"
    done = kronq("web", app, "--adapter", f"mine={packed}", "-o", site)
    assert done.code == 0, done.err
    assert f"mine: {packed.stat().st_size:,} bytes" in done.out
    listed = json.loads((site / "model/adapters.json").read_text())
    assert listed["adapters"] == [{"name": "mine", "file": "mine.safetensors"}]
    for name in ("index.html", "packed/index.js", "model/model.onnx", "model/tokenizer.json"):
        assert (site / name).is_file()
    again = kronq("web", app, "--adapter", packed, "-o", site)
    assert again.code == 2
    assert "exists" in again.err
    assert kronq("web", app, "--adapter", packed, "-o", site, "--force").code == 0
    (site / "mine").mkdir()
    refused = kronq("web", app, "--adapter", packed, "-o", site, "--force")
    assert refused.code == 2
    assert "kronq did not write" in refused.err


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_written(
    installed, app, tmp_path, kronq
) -> None:
    other = {f"other.{name}": delta for name, delta in tiny_adapter().items()}
    path = save(Adapter(other), tmp_path / "other.safetensors")
    done = kronq("web", app, "--adapter", path, "-o", tmp_path / "site")
    assert done.code == 2
    assert "other." in done.err
    assert not (tmp_path / "site").exists()


def test_a_damaged_tokenizer_is_not_copied(installed, app, packed, tmp_path, kronq) -> None:
    model = Path(shutil.copytree(app, tmp_path / "app"))
    (model / "tokenizer.json").write_text('{"model": ')
    done = kronq("web", model, "--adapter", packed, "-o", tmp_path / "site")
    assert done.code == 2
    assert f"{model / 'tokenizer.json'}: not JSON" in done.err
    assert not (tmp_path / "site").exists()


def test_without_the_packages_it_says_how_to_get_them(
    app, packed, tmp_path, monkeypatch, kronq
) -> None:
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "empty"))
    done = kronq("web", app, "--adapter", packed)
    assert done.code == 2
    assert "--install lets npm fetch it once" in done.err


@pytest.mark.skipif(os.name == "nt", reason="a profile's folders are the user's own")
@pytest.mark.parametrize(
    "place",
    [
        "..",
        ".",
        "node_modules",
        "node_modules/flatbuffers",
        "node_modules/flatbuffers/mjs",
        "node_modules/flatbuffers/mjs/flatbuffers.js",
    ],
)
def test_packages_that_others_can_write_are_refused(
    installed, app, packed, tmp_path, kronq, place
) -> None:
    site = tmp_path / "site"
    entry = next((tmp_path / "cache/web").iterdir())
    open_place = entry / place
    open_place.chmod(0o777)
    done = kronq("web", app, "--adapter", packed, "-o", site)
    assert done.code == 2
    assert "others can write this part of the cache" in done.err
    assert str(open_place.resolve()) in done.err
    assert not site.exists()
    open_place.chmod(0o700)
    assert kronq("web", app, "--adapter", packed, "-o", site).code == 0


def test_installed_packages_are_the_users_own(tmp_path, monkeypatch) -> None:
    """Whatever the umask of the user is."""
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    npm = tmp_path / "npm"
    npm.write_text(
        "#!/bin/sh\nmkdir -p node_modules/flatbuffers/mjs\n"
        "echo > node_modules/flatbuffers/mjs/flatbuffers.js\n"
    )
    npm.chmod(0o755)
    monkeypatch.setattr(packages.shutil, "which", lambda _name: str(npm))
    old = os.umask(0)
    try:
        modules = packages.find_packages(install=True)
    finally:
        os.umask(old)
    assert packages.find_packages() == modules
    assert modules.parent.stat().st_mode & 0o777 == 0o700


def test_pages_are_served_to_this_machine_with_the_headers_for_threads(tmp_path) -> None:
    (tmp_path / "a.mjs").write_text("export {}")
    with serve_folder(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://{ADDRESS}:{server.server_port}/a.mjs") as answer:
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert answer.headers["Content-Type"].startswith("text/javascript")
        with (
            pytest.raises(KronqError, match="the port cannot be used"),
            serve_folder(tmp_path, server.server_port),
        ):
            pass
        server.shutdown()
