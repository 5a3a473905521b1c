"""Adapters as PyTorch modules that train without the Kronecker product being built.

Unlike the rest of kronq this package imports torch.
"""

from kronq.torch.adapted_model import adapt_linears, read_factors, read_trained
from kronq.torch.core_linear import CoreLinear
from kronq.torch.kron_linear import KronLinear
from kronq.torch.training.peft_families import PeftShape
from kronq.torch.training.peft_tuner import read_tuned
from kronq.torch.training.settings import TrainingSettings
from kronq.torch.training.train import Place, train
from kronq.torch.training.trained import Trained

__all__ = [
    "CoreLinear",
    "KronLinear",
    "PeftShape",
    "Place",
    "Trained",
    "TrainingSettings",
    "adapt_linears",
    "read_factors",
    "read_trained",
    "read_tuned",
    "train",
]
