"""Ways out: an adapter as PEFT or LoRA folders, or grafted into an ONNX model."""
