"""Continuous batching: texts that join and leave one batch, each row with its own adapter."""
