"""Checks of an export before its folder appears: every layer, and the whole model."""
