"""Input moments through ONNX Runtime: correct, in bounded memory, resumable, cached."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kronq.calibration import accumulate, input_moments
from kronq.calibration.batches import make_batches, sample_sequences
from kronq.calibration.input_moments import calibrate
from kronq.errors import KronqError, MismatchError, UnsupportedError
from kronq.io.examples import Example
from kronq.model.second_moments import SecondMoments
from tests.adapters import difference
from tests.calibration import tokens_onnx
from tests.calibration.tokens_onnx import EXAMPLES, adapter, build, tokenize


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build(tmp_path / "base" / "model.onnx")
    return tmp_path / "base"


def run(base: Path, *layers: str, data: Any = EXAMPLES, **settings: Any) -> SecondMoments:
    cache = base.parent / "cache"
    given = {"cache": cache, "tokenize": tokenize, **settings}
    return calibrate(adapter(*layers), base, data, **given)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the collected values, pass by pass."""
    calls: list[list[str]] = []
    true = input_moments.open_exposed

    def spy(path: Path, names: Collection[str], *rest: Any) -> Any:
        calls.append(list(names))
        return true(path, names, *rest)

    monkeypatch.setattr(input_moments, "open_exposed", spy)
    return calls


def test_moments_are_those_of_the_model_in_numpy(tmp_path: Path) -> None:
    stored = build(tmp_path / "base" / "model.onnx")
    found = run(tmp_path / "base")
    assert found.tokens == sum(len(example.text) for example in EXAMPLES)
    assert not found.two_sided
    for name, wanted in tokens_onnx.moments(stored, EXAMPLES).items():
        assert difference(found[name].inputs, wanted) < 1e-6


def test_weights_inside_the_model_file_give_equal_moments(tmp_path: Path, base: Path) -> None:
    import onnx

    inline = tmp_path / "inline" / "model.onnx"
    inline.parent.mkdir()
    onnx.save(onnx.load(base / "model.onnx"), inline)
    assert np.array_equal(run(inline.parent)["square"].inputs, run(base)["square"].inputs)


def test_a_file_of_text_is_read_and_named(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("\n\n".join(example.text for example in EXAMPLES))
    found = run(base, data=file)
    assert found.source == "notes.txt"
    assert np.array_equal(found["first"].inputs, run(base)["first"].inputs)


def test_little_memory_takes_more_passes_with_equal_results(
    base: Path, opened: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulate, "MEMORY", 1)
    found = run(base)
    assert opened == [["x"], ["x1"], ["x2"]]
    whole = run(base, cache=base / "other")
    assert all(np.array_equal(found[name].inputs, whole[name].inputs) for name in found)


def test_another_adapter_on_the_same_base_uses_the_cache(
    base: Path, opened: list[list[str]]
) -> None:
    run(base, "square")
    found = run(base)
    assert opened == [["x1", "x2"], ["x"]], "only what is missing is collected"
    again = run(base)
    assert len(opened) == 2
    assert np.array_equal(found["square"].inputs, again["square"].inputs)


def test_other_text_limits_and_bases_do_not_use_it(
    base: Path, tmp_path: Path, opened: list[list[str]]
) -> None:
    run(base)
    run(base, data=EXAMPLES[:2])
    run(base, limit_tokens=12)
    build(tmp_path / "another" / "model.onnx", seed=1)
    run(tmp_path / "another")
    assert len(opened) == 4


class Stop:
    """Progress callback that presses Ctrl-C after this many tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.shown: list[int] = []

    def __call__(self, done: int, _total: int) -> None:
        self.shown.append(done)
        if done >= self.tokens:
            raise KeyboardInterrupt


def test_a_resumed_run_equals_an_uninterrupted_one(base: Path) -> None:
    texts = [Example("", ("letters " * n,)) for n in range(2, 60)]
    batches = make_batches(sample_sequences(texts, tokenize))
    assert len(batches) > 4
    whole = run(base, data=texts, cache=base / "other")
    stop = Stop(sum(batch.tokens for batch in batches[:3]))
    with pytest.raises(KeyboardInterrupt):
        run(base, data=texts, progress=stop)
    shown: list[tuple[int, int]] = []
    found = run(base, data=texts, progress=lambda *args: shown.append(args))
    assert shown[0] == (stop.shown[-1], whole.tokens), "it goes on where it was"
    assert shown[-1] == (whole.tokens, whole.tokens)
    for name in whole:
        assert np.array_equal(found[name].inputs, whole[name].inputs)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_file_is_written_again(base: Path, opened: list[list[str]], damage: str) -> None:
    whole = {name: moment.inputs.copy() for name, moment in run(base).items()}
    for file in (base.parent / "cache").rglob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-3] ^= 64
        kept = {"flipped": len(content), "truncated": len(content) - 9, "empty": 0}[damage]
        file.write_bytes(content[:kept])
    found = run(base)
    assert opened == [["x", "x1", "x2"]] * 2
    assert all(np.array_equal(found[name].inputs, whole[name]) for name in whole)


def test_a_layer_that_the_base_lacks_is_refused(base: Path) -> None:
    layers = {"first": adapter()["first"], "second": adapter()["square"]}
    with pytest.raises(MismatchError, match="1 of 2 adapted layers"):
        calibrate(type(adapter())(layers), base, EXAMPLES, tokenize=tokenize)


def test_a_base_without_a_tokenizer_is_refused(base: Path) -> None:
    with pytest.raises(KronqError, match=r"genai_config\.json"):
        run(base, tokenize=None)


def test_a_base_that_takes_no_tokens_is_refused(tmp_path: Path) -> None:
    from tests.onnx import tiny_onnx

    tiny_onnx.build(tmp_path / "model.onnx")
    layer = "model.layers.0.mlp.up"
    tiny = tiny_onnx.adapter(layers={layer: tiny_onnx.LAYERS[layer]})
    with pytest.raises(UnsupportedError, match="no input named input_ids"):
        calibrate(tiny, tmp_path, EXAMPLES, tokenize=tokenize, cache=tmp_path)


def test_values_that_are_not_finite_are_refused_and_not_kept(base: Path) -> None:
    stored = np.fromfile(base / "weights.data", np.float32)
    stored[:] = np.inf
    stored.tofile(base / "weights.data")
    with pytest.raises(KronqError, match="not finite"):
        run(base)
    assert not [*(base.parent / "cache").rglob("*.safetensors")]
