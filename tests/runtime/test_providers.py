"""The device that was asked for is the one that runs, or it is an error."""

from __future__ import annotations

from types import SimpleNamespace

import onnxruntime
import pytest

from kronq.errors import KronqError, MissingDependencyError
from kronq.runtime.providers import CPU, CUDA, check_provider, choose


def pretend(monkeypatch, *available):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))


def test_auto_takes_cuda_where_it_is(monkeypatch):
    pretend(monkeypatch, CUDA, CPU)
    assert choose("auto") == [CUDA, CPU]
    assert choose("cuda") == [CUDA, CPU]
    assert choose("cpu") == [CPU]


def test_auto_takes_the_cpu_otherwise(monkeypatch):
    pretend(monkeypatch, "AzureExecutionProvider", CPU)
    assert choose("auto") == [CPU]


def test_cuda_that_is_not_there_says_what_to_install(monkeypatch):
    pretend(monkeypatch, CPU)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime-gpu"):
        choose("cuda")


def test_unknown_device():
    with pytest.raises(KronqError, match="unknown device; found tpu; expected auto, cpu, cuda"):
        choose("tpu")


def test_a_session_that_fell_back_is_an_error():
    session = SimpleNamespace(get_providers=lambda: [CPU])
    with pytest.raises(KronqError, match=f"found {CPU}; expected {CUDA}"):
        check_provider(session, [CUDA, CPU])
