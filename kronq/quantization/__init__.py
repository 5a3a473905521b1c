"""Quantization: a float adapter in, a quantized adapter out."""
