"""Adapters as PyTorch modules that train without the Kronecker product being built.

Unlike the rest of kronq this package imports torch.
"""

from kronq.torch.adapted_model import adapt_linears, read_factors, read_trained
from kronq.torch.kron_linear import KronLinear

__all__ = ["KronLinear", "adapt_linears", "read_factors", "read_trained"]
