"""ONNX graph surgery: one emitter, two forms so far (branch and merged)."""

from kronq.targets.onnx.export import export_onnx
from kronq.targets.onnx.report import Difference, ExportReport, Form, Verification

__all__ = ["Difference", "ExportReport", "Form", "Verification", "export_onnx"]
