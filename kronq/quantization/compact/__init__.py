"""Compact codes: the trellis codec at a size that is asked for."""
