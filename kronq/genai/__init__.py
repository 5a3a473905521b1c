"""Sessions: models in ONNX Runtime, text through onnxruntime-genai, adapters that are swapped."""
