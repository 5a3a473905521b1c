"""Codes of one width for each layer: ``rtn``, ``balanced`` and ``fp16``."""
