"""Wherever an adapter meets a base: one of another base is refused, and goes on where asked."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import kronq
from kronq.errors import KronqError
from tests.cli.command import Kronq
from tests.engine.pool_app import has_operator, make_adapter
from tests.onnx.test_other_bases import changed, fingerprint

DATA = [{"question": f"{i}", "choices": [" d", " e"], "answer": i % 2} for i in range(16)]


@dataclass(frozen=True)
class Place:
    """What the ways need: an adapter's file, and a base that it was not made for."""

    adapter: Path
    base: Path
    slots: Path
    app: Path | None
    hf: Path
    data: Path
    out: Path

    def reading(self, other: bool) -> kronq.Adapter:
        return kronq.load(self.adapter, other_base=other)


@pytest.fixture(scope="module")
def made(llama_bases: Path, tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, base = tmp_path_factory.mktemp("meet"), llama_bases / "fp32"
    adapter = make_adapter(0)
    own = changed(base, folder / "own", 1.0)
    known = replace(adapter, base=fingerprint(adapter, own))
    kronq.export_onnx(adapter, base, folder / "slots", kronq.Slots(compiled=False), verify=False)
    app = folder / "app" if has_operator() else None
    if app is not None:
        kronq.export_onnx(adapter, base, app, "pool", verify=False)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DATA))
    path = kronq.save(known, folder / "a.safetensors")
    return Place(path, base, folder / "slots", app, tiny_hf, folder / "data.jsonl", folder)


def session(place: Place, other: bool) -> None:
    kronq.Session(place.slots).load("a", place.adapter, other_base=other)


def file_for_slots(place: Place, other: bool) -> None:
    kronq.write_onnx_adapter(
        place.reading(other), place.slots, place.out / "a.onnx_adapter", force=True
    )


def site(place: Place, other: bool) -> None:
    from kronq.web.site import write_site

    packages = place.out / "node_modules"
    packages.mkdir(exist_ok=True)
    given = {"a": place.adapter}, place.out / "site", packages
    write_site(place.slots, *given, other_base=other, force=True)


def calibrate(place: Place, other: bool) -> None:
    kronq.calibrate(place.reading(other), place.base, place.data, cache=place.out)


def calibrate_two_sided(place: Place, other: bool) -> None:
    pytest.importorskip("torch")
    given = place.reading(other), place.hf, place.data
    kronq.calibrate_two_sided(*given, cache=place.out, device="cpu")


def tuning(place: Place, other: bool) -> None:
    pytest.importorskip("torch")
    from kronq.quantization.distill import TuningSettings, tune

    settings = TuningSettings(steps=1)
    tune(place.reading(other), place.hf, place.data, 4000, settings, device="cpu")


def attach(place: Place, other: bool) -> None:
    pytest.importorskip("torch")
    from kronq.calibration.torch_model import attach as attached
    from kronq.calibration.torch_model import load_model

    model, _ = load_model(place.hf, device="cpu")
    with attached(model, place.reading(other)):
        pass


def lm_eval(place: Place, other: bool) -> None:
    pytest.importorskip("lm_eval")
    from kronq.lm_eval.harness_model import KronqModel

    KronqModel(place.base, place.adapter, other_base=other, device="cpu")


def engine(place: Place, other: bool) -> None:
    found = kronq.Engine(place.app, pool=filled_pool(place), other_base=other)
    found.submit("abc", adapter="a")


def serve(place: Place, other: bool) -> None:
    pytest.importorskip("starlette")
    from kronq.serve.refusal import RefusedError
    from kronq.serve.service import ServerOptions, open_service

    given = {"pool": filled_pool(place), "other_base": other}
    service = open_service(place.app, ServerOptions("tiny"), **given)
    try:
        asyncio.run(service.catalog.find("a"))
    except RefusedError as error:
        assert "another base of the same shapes" in error.message  # noqa: PT017
        raise error.__context__ or error from None


def filled_pool(place: Place) -> Path:
    found = kronq.Pool.open(place.out / "pool", create=True)
    if "a" not in found:
        found.add("a", place.adapter)
    return place.out / "pool"


@pytest.mark.parametrize(
    "way",
    [
        session,
        file_for_slots,
        site,
        calibrate,
        calibrate_two_sided,
        pytest.param(tuning, marks=pytest.mark.slow),
        attach,
        lm_eval,
        engine,
        serve,
    ],
    ids=lambda way: way.__name__,
)
def test_in_python(made: Place, way: Callable[[Place, bool], None]) -> None:
    pytest.importorskip("onnxruntime_genai")
    if way in (engine, serve) and made.app is None:
        pytest.skip("needs a C compiler")
    for _ in range(2):  # once more after it was allowed: nothing that was kept lets it through
        with pytest.raises(KronqError, match="another base of the same shapes") as error:
            way(made, False)
        assert error.value.code == "other-base"
        way(made, True)


VERBS = {
    "export": "export {adapter} --form branch --base {base} -o {out}/exported --force",
    "score": "score {adapter} --base {base} --tasks {data} --cache {out}/cache",
    "compare": "compare {adapter} --bits 4 --method native --base {base} --tasks {data}",
    "calibrate": "calibrate {adapter} --base {base} --calibration {data} --cache {out}/cache",
    "quantize": "quantize {adapter} --bits 4 --base {base} --calibration {data}"
    " -o {out}/quantized.safetensors --force",
    "search": "quantize {adapter} --base {base} --tasks {data} --max-loss-increase 90%"
    " -o {out}/searched.safetensors --force",
    "run": "run {slots} --adapter {adapter} --max-tokens 1 --prompt abc",
    "chat": "chat {slots} --adapter {adapter}",
    "bench": "bench {slots} --adapter {adapter} --new-tokens 2 --prompt-tokens 8 --rounds 1",
    "pool add": "pool add {out}/added {adapter} --model {app} --force",
}


@pytest.mark.parametrize("verb", VERBS)
def test_in_verbs(
    made: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # of chat: no question
    pytest.importorskip("onnxruntime_genai")
    if verb == "pool add" and made.app is None:
        pytest.skip("needs a C compiler")
    command = Kronq(capsys)
    given = [part.format(**vars(made)) for part in VERBS[verb].split()]
    for _ in range(2):
        line = command.refuses(*given)
        assert "another base of the same shapes" in line
        assert "--other-base" in line
        found = command(*given, "--other-base")
        assert found.code == 0, found.err
