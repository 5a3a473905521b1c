"""Adapters in their normal form, ΔW = scale · A ⊗ (B1·B2), and exact algebra on the factors."""
