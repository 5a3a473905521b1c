"""The sentence beside a large error of ΔW that was chosen, and none beside one that was not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import kronq
from kronq.model.adapter import Adapter
from tests.adapters import dense
from tests.quantization.test_budgets import layers


def relative_error(adapter: Adapter, quantized: Adapter, factor: float) -> float:
    error = sum(((dense(d) - factor * dense(quantized[n])) ** 2).sum() for n, d in adapter.items())
    return float((error / sum((dense(d) ** 2).sum() for d in adapter.values())) ** 0.5)


def test_a_stretched_file_says_so_and_what_the_least_error_would_be() -> None:
    """Against a search over factors of the matrices multiplied out."""
    adapter = layers("kron")
    found = kronq.quantize(adapter, kronq.Compact(bpw=0.8, refit="unbiased"))
    report = kronq.measure(adapter, found)
    assert report.error_note is not None
    assert report.error_note in str(report)
    assert report.error_note in report._repr_html_()
    least = min(relative_error(adapter, found, factor / 100) for factor in range(101))
    (told,) = re.findall(r"from (\d+) % at the scale of least error", report.error_note)
    assert int(told) == pytest.approx(100 * least, abs=0.6)
    assert report.total.relative_error > least


def test_files_whose_error_is_small_or_not_by_design_say_nothing() -> None:
    adapter = layers("kron")
    for config in (
        kronq.Native(bits=4, refit="unbiased"),
        kronq.Compact(bpw=0.8),
        kronq.Float16(),
    ):
        assert kronq.measure(adapter, kronq.quantize(adapter, config)).error_note is None


def test_a_tuned_file_says_what_it_was_fitted_to() -> None:
    adapter = layers("kron")
    found = kronq.quantize(adapter, kronq.Compact(bpw=0.5, refit="unbiased"))
    assert found.recipe is not None
    tuned = replace(found, recipe=replace(found.recipe, method="tuned", refit="fit"))
    note = kronq.measure(adapter, tuned).error_note
    assert note is not None
    assert "distillation fitted the answers, not ΔW" in note
