"""Calibration: second moments of layer inputs, and of loss gradients, on the user's own text."""
