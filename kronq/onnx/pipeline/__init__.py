"""Pipelines of image models as optimum-onnx writes them: a model in each subfolder."""
