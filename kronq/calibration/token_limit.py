"""How much text calibration reads."""

LIMIT_TOKENS = 16_384
"""Tokens of the data that calibration reads at most."""
