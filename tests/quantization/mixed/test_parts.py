"""Large batches are coded in parts, with the same result as at once."""

from __future__ import annotations

import pytest

from kronq.io import threads
from kronq.packed import pack_adapter
from kronq.quantization.mixed import layer_batches, native_coder
from kronq.quantization.mixed.native import native
from tests.adapters import adapter


@pytest.mark.parametrize("bits", [2, 4])
def test_parts_and_gauges_that_are_computed_twice_change_nothing(bits, monkeypatch):
    source = adapter(layers=5, kinds=("kron", "lora", "full_b"))
    at_once = pack_adapter(native(source, bits))
    monkeypatch.setattr(layer_batches, "_VALUES", 500)  # two layers at a time, or one
    monkeypatch.setattr(native_coder, "_KEPT", 0)
    monkeypatch.setattr(threads, "LARGE", 0)
    assert pack_adapter(native(source, bits)) == at_once
