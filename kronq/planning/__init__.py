"""What adapters of a family would cost on a model: parameters, and bytes at each width."""
