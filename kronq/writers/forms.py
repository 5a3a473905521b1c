"""What an adapter can be written as for PEFT."""

FORMS = ("peft", "lora")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Name → numpy's name, with ml_dtypes."""
