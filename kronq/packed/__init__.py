"""The packed file: one safetensors file, described in formats/SPEC.md."""

from kronq.packed.locate import Location, locate
from kronq.packed.reader import detect, read
from kronq.packed.writer import check_name, grouped, pack, roles, save

__all__ = ["Location", "check_name", "detect", "grouped", "locate", "pack", "read", "roles", "save"]
