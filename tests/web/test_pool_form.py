"""The form pool of ONNX's own operators in WebAssembly: rows that have their own adapters."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from kronq import Pooled, export_onnx
from kronq.onnx.slots.pool_inputs import STACK_TAGS, row_inputs
from kronq.onnx.slots.record import adapter_record
from kronq.onnx.slots.row_stacks import record_factors, row_stacks
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.web.serve import ADDRESS, serve_folder
from tests.engine.pool_app import make_adapter
from tests.web.chromium import browser
from tests.web.programs import CHROMIUM, program
from tests.web.test_browser import packages  # noqa: F401  # a fixture

PAGE = "<script>run = async file => (await import('./run.js')).run(file)</script>"
RUN = """
import * as ort from "./ort/ort.min.mjs";
const arrays = { float32: Float32Array, int64: BigInt64Array };
export async function run(file) {
  ort.env.wasm.numThreads = 1;
  const externalData = [{ path: "model.onnx.data", data: "model/model.onnx.data" }];
  const session = await ort.InferenceSession.create("model/model.onnx", { externalData });
  const feeds = {};
  for (const [name, { type, dims, data }] of Object.entries(await (await fetch(file)).json())) {
    const values = type === "int64" ? data.map(BigInt) : data;
    feeds[name] = new ort.Tensor(type, arrays[type].from(values), dims);
  }
  return [...(await session.run(feeds, ["logits"])).logits.data];
}
"""


@pytest.mark.slow
def test_rows_have_their_own_adapters(tiny_base, packages, tmp_path):  # noqa: F811
    site = tmp_path / "site"
    export_onnx(make_adapter(0), tiny_base, site / "model", Pooled(compiled=False), verify=False)
    require_inputs(site / "model" / "model.onnx")
    spec = SlotSpec.read(site / "model")
    adapters = [record_factors(adapter_record(make_adapter(i)), spec) for i in (1, 2)]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(site / "model" / "model.onnx", options)
    feeds = {STACK_TAGS: np.array([7, 8, 0]), **row_stacks(adapters, spec)}
    feeds |= row_inputs([(1, 8), None, (0, 7)])
    rows = np.arange(5, 20).reshape(3, 5)
    feeds |= {"input_ids": rows, "attention_mask": np.ones_like(rows)}
    decoder = json.loads((site / "model/genai_config.json").read_text())["model"]["decoder"]
    empty = np.zeros((3, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    for each in session.get_inputs():
        if each.name.startswith("past"):
            feeds[each.name] = empty
        elif each.name == "position_ids":
            feeds[each.name] = np.tile(np.arange(5), (3, 1))
    expected = session.run(["logits"], feeds)[0]
    assert len({row.tobytes() for row in expected}) == 3
    wrong = feeds | row_inputs([(1, 8), None, (0, 8)])
    for name, given in (("right", feeds), ("wrong", wrong)):
        (site / f"{name}.json").write_text(json.dumps({n: _told(a) for n, a in given.items()}))
    shutil.copytree(packages / "onnxruntime-web" / "dist", site / "ort")
    (site / "index.html").write_text(PAGE)
    (site / "run.js").write_text(RUN)
    chromium = program(*CHROMIUM)
    with serve_folder(site) as server, browser(chromium, tmp_path / "profile") as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(f"http://{ADDRESS}:{server.server_port}/")
        found = np.reshape(page.evaluate("run('right.json')"), expected.shape)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        with pytest.raises(RuntimeError, match=r"OrtRun.*Resha"):
            page.evaluate("run('wrong.json')")
        server.shutdown()


def require_inputs(file: Path) -> None:
    """Drops the stacks' defaults: onnxruntime-web takes no input that has one."""
    model = onnx.load(file, load_external_data=False)
    names = {each.name for each in model.graph.input}
    kept = [each for each in model.graph.initializer if each.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    file.write_bytes(model.SerializeToString())


def _told(array: np.ndarray) -> dict[str, object]:
    return {"type": array.dtype.name, "dims": array.shape, "data": array.ravel().tolist()}
