"""The page of ``kronq web`` in headless Chromium, from this machine alone."""

from __future__ import annotations

import json
import shutil
import threading
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import kronq
from kronq.errors import MissingDependencyError
from kronq.onnx.slots.flatbuffer import InputStack
from kronq.onnx.slots.write_onnx_adapter import write_inputs, write_onnx_adapter
from kronq.quantization.config_names import config_for
from kronq.web.packages import PAGE, find_packages
from kronq.web.serve import ADDRESS, serve_folder
from kronq.web.site import write_site
from tests.conftest import once_per_machine
from tests.evaluate.tiny import tiny_adapter
from tests.web.chromium import Page, browser
from tests.web.model import cpu_logits
from tests.web.programs import CHROMIUM, program

BASE = "no adapter"
ADAPTERS = {
    "kron": ("kron", None),
    "lora": ("lora", None),
    "kron, native": ("kron", "native"),
    "lora, native": ("lora", "native"),
    "kron, balanced": ("kron", "balanced"),
    "kron, compact": ("kron", "compact"),
    "lora, compact": ("lora", "compact"),
    "kron, halves": ("kron", "fp16"),
}
"""Family, and how it is packed; None for an .onnx_adapter."""
BITS = {"fp16": 16, "compact": 8}
CUT = "a file that is cut short"
IDS = [5, 60, 7, 81, 9]


@pytest.fixture(scope="module")
def packages() -> Path:
    """node_modules of the page, as its package-lock.json pins them."""

    def install(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KRONQ_CACHE", str(folder))
            find_packages(install=True)

    try:
        pinned = zlib.crc32((PAGE / "package-lock.json").read_bytes())
        cache = once_per_machine(f"web-packages-{pinned:08x}", install)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return next(cache.glob("web/*/node_modules"))


def four_bits(base: Path, out: Path) -> Path:
    """The same base with weights of 4 bits, by onnxruntime's own quantizer."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("model.onnx.data"))
    work = MatMulNBitsQuantizer(onnx.load(base / "model.onnx"), block_size=32, is_symmetric=True)
    work.process()
    work.model.save_model_to_file(str(out / "model.onnx"))
    return out


@pytest.fixture(scope="module", params=["fp32", "int4"])
def folder(request, tiny_base, tmp_path_factory) -> Path:
    scratch = tmp_path_factory.mktemp("web")
    base = tiny_base if request.param == "fp32" else four_bits(tiny_base, scratch / "base")
    folder = scratch / "model"
    kronq.export_onnx(tiny_adapter(), base, folder, form=kronq.Slots(compiled=False), verify=False)
    for seed, (name, (family, method)) in enumerate(ADAPTERS.items()):
        adapter = tiny_adapter(family, seed=seed)
        if method is not None:
            adapter = kronq.quantize(adapter, config_for(method, BITS.get(method, 4)))
            kronq.save(adapter, folder / f"{name}.safetensors")
        # What a packed one is compared with: ONNX Runtime on the CPU reads nothing else.
        write_onnx_adapter(adapter, folder, folder / f"{name}.onnx_adapter")
    return folder


@pytest.fixture(scope="module")
def site(folder, packages, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    adapters = {name: folder / file_of(name) for name in ADAPTERS}
    prompt = "Question: {}\nAnswer:"
    write_site(folder, adapters, out, packages, prompt=prompt)
    (out / "model/cut.safetensors").write_bytes(
        (folder / file_of("kron, native")).read_bytes()[:-9]
    )
    listed = json.loads((out / "model/adapters.json").read_text())
    listed["adapters"].insert(1, {"name": CUT, "file": "cut.safetensors"})
    (out / "model/adapters.json").write_text(json.dumps(listed))
    return out


def file_of(name: str) -> str:
    return f"{name}.onnx_adapter" if ADAPTERS[name][1] is None else f"{name}.safetensors"


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    chromium = program(*CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    with serve_folder(site) as server, browser(chromium, profile) as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(f"http://{ADDRESS}:{server.server_port}/")
        page.evaluate("kronq.ready")
        yield page
        server.shutdown()


def answers(page: Page) -> dict[str, list[int]]:
    found = page.evaluate("kronq.askAll('Which gas do plants take in?', 8)")
    return {answer["name"]: answer["tokens"] for answer in found}


def test_the_page_lists_the_adapters_with_their_sizes(page, folder):
    cards = page.evaluate("[...document.querySelectorAll('article')].map(card => card.innerText)")
    assert len(cards) == 2 + len(ADAPTERS)
    failed = cards.pop(2)
    assert CUT in failed
    assert "behind the file: cut short" in failed
    for card, name in zip(cards[1:], ADAPTERS, strict=True):
        assert name in card
        assert f"{(folder / file_of(name)).stat().st_size:,} bytes" in card


@pytest.mark.parametrize("name", [BASE, *ADAPTERS])
def test_logits_in_webassembly_are_those_of_the_cpu(page, folder, name):
    expected = cpu_logits(folder, None if name == BASE else name, IDS)
    found = np.reshape(page.evaluate(f"kronq.logits('{name}', {IDS})"), expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_every_adapter_answers_differently_and_always_the_same(page):
    once = answers(page)
    assert len({tuple(tokens) for tokens in once.values()}) == 1 + len(ADAPTERS)
    assert answers(page) == once


def test_after_an_adapter_the_base_is_the_base(page):
    def logits(name: str) -> list[float]:
        return page.evaluate(f"kronq.logits('{name}', {IDS})")

    before, swapped, after = logits(BASE), logits("kron, native"), logits(BASE)
    assert swapped != before == after


def test_a_click_on_ask_shows_every_answer(page):
    page.evaluate("question.value = 'Which gas?', tokens.value = 3, ask.requestSubmit()")
    page.evaluate(
        "new Promise(function look(done) {"
        " document.querySelector('#ask button').disabled ? setTimeout(look, 20, done) : done() })"
    )
    for place, unit in (("first", " ms"), ("rate", " tokens/s")):
        told = page.evaluate(f"[...document.querySelectorAll('.{place}')].map(t => t.innerText)")
        # An answer of one token, the end, has no rate.
        assert sum(unit in text for text in told) >= len(told) - (place == "rate")


def test_an_adapter_of_another_base_is_refused_by_the_slot_it_names(page, site):
    ones = np.ones((1, 8, 4), np.float32)
    other = InputStack(["/h.0/attn/down"], (8, 4), ones.dtype, lambda: [ones])
    write_inputs([other], site / "model/other.onnx_adapter")
    opened = (
        "Promise.all([import('./model.js'), fetch('model/other.onnx_adapter')])"
        ".then(async ([{ openAdapter }, file]) =>"
        " openAdapter({ defaults: new Map() }, new Uint8Array(await file.arrayBuffer())))"
    )
    with pytest.raises(RuntimeError, match=r"no slot /h\.0/attn/down: made for another base"):
        page.evaluate(opened)


def test_the_page_may_use_threads(page):
    assert page.evaluate("crossOriginIsolated") is True


def test_nothing_is_asked_of_another_host(page):
    assert page.requests
    assert all(url.startswith(("http://127.0.0.1:", "data:")) for url in page.requests)
