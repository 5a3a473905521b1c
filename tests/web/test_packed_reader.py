"""formats/js in headless Chromium: the factors that kronq reads, bit by bit."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import kronq
from kronq.web.serve import ADDRESS, serve_folder
from tests import adapters
from tests.formats.test_js_reader import GOLDEN, READER, digest
from tests.paths import ROOT
from tests.web.chromium import browser
from tests.web.programs import CHROMIUM, program

DIGEST = """
Promise.all(['/js/index.js', '/factor_parts.js'].map(path => import(path)))
  .then(async ([{ readPacked }, { factorParts }]) => {
    const file = await fetch('/%s');
    const { layers } = readPacked(new Uint8Array(await file.arrayBuffer()));
    const parts = await new Blob(factorParts(layers)).arrayBuffer();
    return [...new Uint8Array(await crypto.subtle.digest('SHA-256', parts))]
      .map(byte => byte.toString(16).padStart(2, '0')).join('');
  })
"""


def test_chromium_reads_the_factors_that_kronq_reads(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(READER, site / "js")
    shutil.copyfile(ROOT / "tests/formats/factor_parts.js", site / "factor_parts.js")
    (site / "index.html").write_text("<!doctype html>")
    for path in GOLDEN:
        shutil.copyfile(path, site / f"{path.parent.name}-{path.name}")
    small = kronq.quantize(adapters.adapter(layers=6), kronq.Compact(size=3000))
    kronq.save(small, site / "compact.safetensors")
    with (
        serve_folder(site) as server,
        browser(program(*CHROMIUM), tmp_path / "profile") as page,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(f"http://{ADDRESS}:{server.server_port}/")
        names = sorted(path.name for path in site.glob("*.safetensors"))
        found = {name: page.evaluate(DIGEST % name) for name in names}
        server.shutdown()
    assert found == {name: digest(kronq.load(site / name)) for name in names}
