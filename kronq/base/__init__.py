"""Base models: ONNX folders built from a Hugging Face folder or a GGUF file."""
