"""The record of an adapter: the bytes that the compiled operators read, codes as they are."""

from kronq.onnx.slots.record.layout import layer_id
from kronq.onnx.slots.record.plan import RecordPlan, adapter_record, plan_record
from kronq.onnx.slots.record.read import LayerRecord, check_record, read_record, record_tag

__all__ = [
    "LayerRecord",
    "RecordPlan",
    "adapter_record",
    "check_record",
    "layer_id",
    "plan_record",
    "read_record",
    "record_tag",
]
