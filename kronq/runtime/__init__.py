"""ONNX Runtime: sessions, generation, and the base models they run on."""
