"""ONNX graph surgery: layers are matched, and an adapter grafted, merged or given slots."""

from kronq.onnx.export import export_onnx
from kronq.onnx.export_report import Difference, ExportReport, Verification
from kronq.onnx.forms import Branch, Form, FormName, Merged, Slots
from kronq.onnx.graph.match_by_map import load_mapping
from kronq.onnx.graph.match_table import MatchTable, match_table

__all__ = [
    "Branch",
    "Difference",
    "ExportReport",
    "Form",
    "FormName",
    "MatchTable",
    "Merged",
    "Slots",
    "Verification",
    "export_onnx",
    "load_mapping",
    "match_table",
]
