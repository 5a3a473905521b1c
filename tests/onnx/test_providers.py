"""Execution targets: the requested provider runs, or an error is raised."""

from __future__ import annotations

from types import SimpleNamespace

import onnxruntime
import pytest
from onnx import TensorProto, helper

from kronq import Session
from kronq.errors import KronqError, MissingDependencyError, UnsupportedError
from kronq.onnx.provider_names import CPU, CUDA, genai_name
from kronq.onnx.providers import (
    ExecutionTarget,
    check_provider,
    choose_target,
    parse_provider_options,
)
from tests.cli.conftest import kronq

__all__ = ["kronq"]

OPENVINO = "OpenVINOExecutionProvider"


def pretend_available(monkeypatch, *available):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))


def test_auto_takes_cuda_where_available(monkeypatch):
    pretend_available(monkeypatch, CUDA, CPU)
    assert choose_target("auto") == ExecutionTarget(CUDA)
    assert choose_target("cuda") == ExecutionTarget(CUDA, required=True)
    assert choose_target("cpu") == ExecutionTarget(CPU)


def test_auto_takes_the_cpu_otherwise(monkeypatch):
    pretend_available(monkeypatch, "AzureExecutionProvider", OPENVINO, CPU)
    assert choose_target() == ExecutionTarget(CPU)


@pytest.mark.parametrize("name", ["openvino", "OpenVINO", OPENVINO, OPENVINO.lower()])
def test_a_provider_by_any_of_its_names(monkeypatch, name):
    pretend_available(monkeypatch, OPENVINO, CPU)
    target = choose_target(provider=name, provider_options={"device_type": "CPU"})
    assert target.providers == [(OPENVINO, {"device_type": "CPU"}), CPU]
    assert target.required


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cuda", "pip install onnxruntime-gpu"),
        ("openvino", "pip install onnxruntime-openvino"),
        ("DirectML", "pip install onnxruntime-directml"),
        ("tensorrt", "pip install onnxruntime-gpu"),
        ("coreml", "on macOS"),
        ("xnnpack", "a build of your own"),
        ("dnnl", "a build of your own"),
    ],
)
def test_a_missing_provider_hints_at_its_package(monkeypatch, name, hint):
    pretend_available(monkeypatch, CPU)
    with pytest.raises(MissingDependencyError, match=f"in this onnxruntime.*{hint}"):
        choose_target(provider=name)


def test_missing_cuda_hints_at_its_package(monkeypatch):
    pretend_available(monkeypatch, CPU)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime-gpu"):
        choose_target("cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "unknown device; found tpu; expected auto, cpu, cuda"),
        ({"provider": "tpu"}, r"unknown provider; found 'tpu'; expected .*openvino"),
        ({"device": "cpu", "provider": "cpu"}, "a device and a provider; found cpu, cpu"),
        (
            {"device": "cpu", "provider_options": {"a": "1"}},
            "the CPU takes no provider options; found a",
        ),
    ],
)
def test_refused_targets(arguments, message):
    with pytest.raises(KronqError, match=message):
        choose_target(**arguments)


def test_options_are_written_key_equals_value():
    assert parse_provider_options(["device_type=CPU", "config={a=b}"]) == {
        "device_type": "CPU",
        "config": "{a=b}",
    }
    for pairs, message in ((["a"], "bad provider option; found 'a'"), (["a=1", "a=2"], "twice")):
        with pytest.raises(KronqError, match=message):
            parse_provider_options(pairs)


def test_a_session_that_fell_back_is_an_error():
    session = SimpleNamespace(get_providers=lambda: [CPU])
    with pytest.raises(KronqError, match=f"found {CPU}; expected {CUDA}"):
        check_provider(session, ExecutionTarget(CUDA))


def test_onnxruntime_genai_has_its_own_provider_names():
    assert genai_name("DmlExecutionProvider") == "DML"
    with pytest.raises(UnsupportedError, match=r"onnxruntime-genai does not know.*Tensorrt"):
        genai_name("TensorrtExecutionProvider")


def test_another_provider_of_this_onnxruntime(tmp_path):
    """Azure's provider starts first but takes no node of an ordinary model."""
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    report = Session(tmp_path, provider="azure").report
    assert (report.provider, dict(report.nodes)) == (name, {CPU: 1})


def test_cli(kronq, tiny_base, monkeypatch):
    pretend_available(monkeypatch, CPU)
    run = ("run", tiny_base, "--prompt", "abc")
    for verb in (run, ("score", "--base", tiny_base, "--tasks", "examples/questions.jsonl")):
        assert "pip install onnxruntime-openvino" in kronq.refuses(*verb, "--provider", "OpenVINO")
    assert "expected KEY=VALUE" in kronq.refuses(*run, "--provider-option", "device_type")
    assert "a device and a provider" in kronq.refuses(*run, "--provider", "cpu", "--device", "cpu")
    report = kronq(*run, "--provider", "cpu", "--max-tokens", 2, "--nodes", "--json").json()
    assert report["provider"] == CPU
    assert list(report["nodes"]) == [CPU]
