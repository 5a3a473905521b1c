"""kronq: quantize, measure, pack and run Kron-LoRA (LoKr) and LoRA adapters.

The whole public API is here; every other module is private. Each name is imported when it is first
used, so that ``import kronq`` and ``kronq --help`` stay quick and never import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kronq.base.build import build_base
    from kronq.calibration.input_moments import calibrate
    from kronq.calibration.two_sided import calibrate_two_sided
    from kronq.engine.engine import Engine
    from kronq.engine.job import Job, Listener
    from kronq.errors import (
        ArgumentError,
        DiskFullError,
        FormatError,
        KronqError,
        KronqWarning,
        MismatchError,
        MissingDependencyError,
        NotFoundError,
        OutputExistsError,
        UnsupportedError,
    )
    from kronq.evaluate.cache import Scorer
    from kronq.evaluate.search import SearchOptions
    from kronq.evaluate.smallest import smallest
    from kronq.evaluate.task_comparison import compare_on_task
    from kronq.evaluate.task_model import TaskModel
    from kronq.evaluate.task_report import score_all
    from kronq.genai.bench.bench import bench
    from kronq.genai.session import Session
    from kronq.io.examples import read_examples
    from kronq.model.adapter import Adapter
    from kronq.model.delta import Delta
    from kronq.model.second_moments import LayerMoments, SecondMoments
    from kronq.model.weighted_sum import weighted_sum
    from kronq.onnx.export import export_onnx
    from kronq.onnx.forms import Branch, Merged, Pooled, Slots
    from kronq.onnx.graph.match_table import match_table
    from kronq.onnx.pipeline.adapt_pipeline import adapt_pipeline
    from kronq.onnx.pipeline.export_pipeline import export_pipeline, match_pipeline
    from kronq.onnx.slots.pool_inputs import pool_inputs
    from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter
    from kronq.packed.writer import pack, save
    from kronq.planning.families import AdapterShape
    from kronq.planning.plan_adapters import plan
    from kronq.pool.pool import Pool
    from kronq.quantization.configs import Compact, Float16, Native, Tuned, Uniform
    from kronq.quantization.many import pack_many, quantize_many
    from kronq.quantization.quantize import quantize
    from kronq.readers.basis import extract_cores
    from kronq.readers.load import load
    from kronq.report.bound import gaussian_bound
    from kronq.report.comparison import compare
    from kronq.report.html import write_html
    from kronq.report.measurement import measure
    from kronq.writers.basis import write_basis
    from kronq.writers.convert import convert
    from kronq.writers.model_card import model_card

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "AdapterShape",
    "ArgumentError",
    "Branch",
    "Compact",
    "Delta",
    "DiskFullError",
    "Engine",
    "Float16",
    "FormatError",
    "Job",
    "KronqError",
    "KronqWarning",
    "LayerMoments",
    "Listener",
    "Merged",
    "MismatchError",
    "MissingDependencyError",
    "Native",
    "NotFoundError",
    "OutputExistsError",
    "Pool",
    "Pooled",
    "Scorer",
    "SearchOptions",
    "SecondMoments",
    "Session",
    "Slots",
    "TaskModel",
    "Tuned",
    "Uniform",
    "UnsupportedError",
    "adapt_pipeline",
    "bench",
    "build_base",
    "calibrate",
    "calibrate_two_sided",
    "compare",
    "compare_on_task",
    "convert",
    "export_onnx",
    "export_pipeline",
    "extract_cores",
    "gaussian_bound",
    "load",
    "match_pipeline",
    "match_table",
    "measure",
    "model_card",
    "pack",
    "pack_many",
    "plan",
    "pool_inputs",
    "quantize",
    "quantize_many",
    "read_examples",
    "save",
    "score_all",
    "smallest",
    "weighted_sum",
    "write_basis",
    "write_html",
    "write_onnx_adapter",
]

_MODULES = {
    "Adapter": "kronq.model.adapter",
    "AdapterShape": "kronq.planning.families",
    "ArgumentError": "kronq.errors",
    "Branch": "kronq.onnx.forms",
    "Compact": "kronq.quantization.configs",
    "Delta": "kronq.model.delta",
    "Float16": "kronq.quantization.configs",
    "Engine": "kronq.engine.engine",
    "FormatError": "kronq.errors",
    "Job": "kronq.engine.job",
    "KronqError": "kronq.errors",
    "KronqWarning": "kronq.errors",
    "LayerMoments": "kronq.model.second_moments",
    "Listener": "kronq.engine.job",
    "Merged": "kronq.onnx.forms",
    "MismatchError": "kronq.errors",
    "DiskFullError": "kronq.errors",
    "MissingDependencyError": "kronq.errors",
    "Native": "kronq.quantization.configs",
    "NotFoundError": "kronq.errors",
    "OutputExistsError": "kronq.errors",
    "Pool": "kronq.pool.pool",
    "Pooled": "kronq.onnx.forms",
    "Scorer": "kronq.evaluate.cache",
    "SearchOptions": "kronq.evaluate.search",
    "SecondMoments": "kronq.model.second_moments",
    "Session": "kronq.genai.session",
    "Slots": "kronq.onnx.forms",
    "TaskModel": "kronq.evaluate.task_model",
    "Tuned": "kronq.quantization.configs",
    "Uniform": "kronq.quantization.configs",
    "UnsupportedError": "kronq.errors",
    "adapt_pipeline": "kronq.onnx.pipeline.adapt_pipeline",
    "bench": "kronq.genai.bench.bench",
    "build_base": "kronq.base.build",
    "calibrate": "kronq.calibration.input_moments",
    "calibrate_two_sided": "kronq.calibration.two_sided",
    "compare": "kronq.report.comparison",
    "compare_on_task": "kronq.evaluate.task_comparison",
    "convert": "kronq.writers.convert",
    "export_onnx": "kronq.onnx.export",
    "export_pipeline": "kronq.onnx.pipeline.export_pipeline",
    "extract_cores": "kronq.readers.basis",
    "gaussian_bound": "kronq.report.bound",
    "load": "kronq.readers.load",
    "match_pipeline": "kronq.onnx.pipeline.export_pipeline",
    "match_table": "kronq.onnx.graph.match_table",
    "measure": "kronq.report.measurement",
    "model_card": "kronq.writers.model_card",
    "pack": "kronq.packed.writer",
    "plan": "kronq.planning.plan_adapters",
    "pool_inputs": "kronq.onnx.slots.pool_inputs",
    "quantize": "kronq.quantization.quantize",
    "pack_many": "kronq.quantization.many",
    "quantize_many": "kronq.quantization.many",
    "read_examples": "kronq.io.examples",
    "save": "kronq.packed.writer",
    "score_all": "kronq.evaluate.task_report",
    "smallest": "kronq.evaluate.smallest",
    "weighted_sum": "kronq.model.weighted_sum",
    "write_basis": "kronq.writers.basis",
    "write_html": "kronq.report.html",
    "write_onnx_adapter": "kronq.onnx.slots.write_onnx_adapter",
}

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'kronq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
