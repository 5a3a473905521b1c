"""Compact codes tuned to what the adapter says, by a short distillation (needs torch)."""

from kronq.quantization.distill.distillation import tune

__all__ = ["tune"]
