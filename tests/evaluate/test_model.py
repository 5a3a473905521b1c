"""Task model: logits of swapped adapters equal those of an export of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import MismatchError
from kronq.evaluate.task_model import TaskModel
from kronq.genai.session import Session
from tests.evaluate.tiny import tiny_adapter

IDS = np.arange(10, 40)[None]


def logits(model: TaskModel) -> np.ndarray:
    return model.predict(IDS, np.ones_like(IDS), np.arange(IDS.size))


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("family", ["kron", "split", "full", "lora"])
def test_logits_equal_those_of_an_export(
    tmp_path: Path, tiny_base: Path, model: TaskModel, family: str, form: str
) -> None:
    for bits in (None, 4):
        adapter = tiny_adapter(family)
        adapter = adapter if bits is None else kronq.quantize(adapter, bits=bits)
        model.use(adapter)
        out = tmp_path / str(bits)
        kronq.export_onnx(adapter, tiny_base, out, form=form, verify=False)
        expected = Session(out, device="cpu").logits(IDS)[0]
        assert np.abs(logits(model) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_logits_without_an_adapter_equal_those_of_the_base(
    tiny_base: Path, model: TaskModel
) -> None:
    expected = Session(tiny_base, device="cpu").logits(IDS)[0]
    model.use(None)
    assert np.array_equal(logits(model), expected)
    model.use(tiny_adapter())
    assert not np.allclose(logits(model), expected)
    model.use(None)
    assert np.array_equal(logits(model), expected)


def test_adapters_of_one_shape_share_a_session(model: TaskModel) -> None:
    model.use(tiny_adapter())
    opened = model._session
    first = logits(model)
    model.use(tiny_adapter(rank=7, seed=3))
    assert not np.allclose(logits(model), first)
    model.use(kronq.quantize(tiny_adapter(), bits=8))
    model.use(tiny_adapter())
    assert np.array_equal(logits(model), first)
    assert model._session is opened
    model.use(tiny_adapter("lora"))
    assert model._session is not opened


def test_asked_positions_equal_rows_of_all_positions(model: TaskModel) -> None:
    model.use(tiny_adapter())
    ids = np.vstack([IDS, IDS + 5])
    every = model.predict(ids, np.ones_like(ids), np.arange(ids.size))
    rows = np.array([3, 29, 31])
    assert np.allclose(model.predict(ids, np.ones_like(ids), rows), every[rows], atol=1e-5)


def test_refuses_an_adapter_of_another_model(model: TaskModel) -> None:
    adapter = tiny_adapter()
    strange = kronq.Adapter({name.replace("mlp", "other"): d for name, d in adapter.items()})
    with pytest.raises(MismatchError, match="no place in the base"):
        model.use(strange)
