"""Calibration: what a model sees and what its loss is sensitive to, on the user's own text."""
