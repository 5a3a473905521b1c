"""ONNX graph surgery: layers are matched, and an adapter grafted, merged or given slots."""

from kronq.onnx.export import export_onnx
from kronq.onnx.export_report import Difference, ExportReport, Form, Verification
from kronq.onnx.graph.layer_map import load_mapping
from kronq.onnx.graph.match_table import MatchTable, match_table

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
