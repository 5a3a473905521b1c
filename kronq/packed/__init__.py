"""The packed file: one safetensors file, described in formats/SPEC.md."""

from kronq.packed.groups import group_layers, matrices_by_role
from kronq.packed.locate import Location, locate
from kronq.packed.provenance import provenance_of
from kronq.packed.reader import open_packed, read_packed
from kronq.packed.writer import (
    SizeByWidths,
    check_packed_name,
    pack,
    pack_adapter,
    packed_size,
    save,
)

__all__ = [
    "Location",
    "SizeByWidths",
    "check_packed_name",
    "group_layers",
    "locate",
    "matrices_by_role",
    "open_packed",
    "pack",
    "pack_adapter",
    "packed_size",
    "provenance_of",
    "read_packed",
    "save",
]
