"""The layers of an ONNX graph, and how an adapter's layers are matched to them."""
