"""Exact sums over factors: norms, inner products and errors of ΔW without building it."""
