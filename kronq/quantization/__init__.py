"""Float adapter → quantized adapter: grids, gauges and the methods made of them."""

from kronq.quantization.methods import BITS, Axis, Method, Progress, quantize

__all__ = ["BITS", "Axis", "Method", "Progress", "quantize"]
