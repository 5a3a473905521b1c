"""ONNX graph surgery: layers are matched, and an adapter grafted, merged or given slots."""

from kronq.targets.onnx.export import export_onnx
from kronq.targets.onnx.mapping import load_mapping
from kronq.targets.onnx.report import Difference, ExportReport, Form, Verification
from kronq.targets.onnx.table import MatchTable, match_table

__all__ = [
    "Difference",
    "ExportReport",
    "Form",
    "MatchTable",
    "Verification",
    "export_onnx",
    "load_mapping",
    "match_table",
]
