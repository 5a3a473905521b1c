"""Entropy-coded trellis-coded quantization: levels, their encoder, and their stream."""
