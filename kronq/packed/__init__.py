"""The packed file: one safetensors file, described in formats/SPEC.md."""

from kronq.packed.locate import Location, locate
from kronq.packed.reader import open_packed, read_packed
from kronq.packed.writer import (
    check_packed_name,
    group_layers,
    matrices_by_role,
    pack_adapter,
    save,
)

__all__ = [
    "Location",
    "check_packed_name",
    "group_layers",
    "locate",
    "matrices_by_role",
    "open_packed",
    "pack_adapter",
    "read_packed",
    "save",
]
