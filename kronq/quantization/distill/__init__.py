"""Distillation: compact codes tuned to answer as the adapter does (needs torch)."""

from kronq.quantization.distill.distillation import TuningSettings, tune

__all__ = ["TuningSettings", "tune"]
