"""A real language model and a trained adapter that does not fit it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.onnx.export import export_onnx
from kronq.readers.load import load
from tests.paths import EXAMPLE


@pytest.mark.slow
def test_an_adapter_of_a_deeper_model_is_refused_whole(tmp_path: Path, smollm_base: Path) -> None:
    adapter = load(EXAMPLE)
    layers = {name.replace("layers.29.", "layers.30."): delta for name, delta in adapter.items()}
    with pytest.raises(MismatchError, match="7 of 210") as error:
        export_onnx(Adapter(layers), smollm_base, tmp_path / "out")
    for block in ("mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"):
        assert f"model.layers.30.{block} " in str(error.value)
    assert "and 4 more" in str(error.value)
    assert not (tmp_path / "out").exists()
