"""Studies: families of adapters trained, quantized and scored on tasks, with several seeds."""
