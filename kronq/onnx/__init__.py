"""ONNX: layers matched to a graph, exports in every form, and sessions that run them."""
