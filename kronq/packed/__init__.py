"""The packed file: one safetensors file, described in formats/SPEC.md."""

from kronq.packed.reader import Location, detect, locate, read
from kronq.packed.writer import check_name, pack, roles, save

__all__ = ["Location", "check_name", "detect", "locate", "pack", "read", "roles", "save"]
