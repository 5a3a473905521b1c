"""Base models to run on: ONNX folders built from a Hugging Face folder or a GGUF file."""
