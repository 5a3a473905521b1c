"""Sessions: a model in ONNX Runtime, text through onnxruntime-genai, and adapters that swap."""
