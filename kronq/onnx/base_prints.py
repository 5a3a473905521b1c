"""``kronq_base.json`` beside a graph with slots: fingerprints of the weights under the slots.

With them an adapter that names its base is recognized without opening the graph.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kronq import limits
from kronq.errors import FormatError, UnsupportedError
from kronq.io.cache import digest
from kronq.io.json_file import read_json
from kronq.model.adapter import Adapter
from kronq.model.base_fingerprint import (
    BaseFingerprint,
    WeightPrint,
    join_prints,
    refuse_other_base,
)

PRINTS = "kronq_base.json"
_VERSION = 1
_HALF = 12


@dataclass(frozen=True, eq=False)
class BasePrints:
    """Fingerprints of a base's weights.

    Attributes:
        path: The folder, or the file in it, for errors.
        layers: Layer → fingerprint of its weight.
    """

    path: Path
    layers: Mapping[str, WeightPrint]

    @cached_property
    def digest(self) -> str:
        """Identifies the weights."""
        return digest(_to_json(self.layers))

    def check(self, adapter: Adapter) -> None:
        """Refuses an adapter that was calibrated or tested with another base.

        Raises:
            MismatchError: It was.
        """
        if adapter.base is not None:  # joining takes a tenth of a first load
            refuse_other_base(adapter.base, self.join(adapter), self.path)

    def join(self, layers: Collection[str]) -> BaseFingerprint | None:
        """Returns the fingerprint of the base of some layers; None where one is not known."""
        if not layers or not self.layers.keys() >= {*layers}:
            return None
        return join_prints({name: self.layers[name] for name in layers})


def write_prints(layers: Mapping[str, WeightPrint], folder: Path) -> None:
    """Writes the fingerprints into the folder of a graph."""
    (folder / PRINTS).write_text(_to_json(layers) + "\n", "utf-8")


def read_prints(folder: Path) -> BasePrints:
    """Reads the fingerprints in the folder of a graph; none where it tells none.

    Raises:
        FormatError: The file is damaged.
        UnsupportedError: It is of another version.
    """
    file = folder / PRINTS
    if not file.is_file():
        return BasePrints(file, {})
    told = read_json(file)
    if told.get("version") != _VERSION:
        raise UnsupportedError("unknown version", path=file, expected=_VERSION, code="version")
    layers, rounded = told.get("layers"), told.get("rounded")
    if not isinstance(layers, dict) or not isinstance(rounded, bool):
        raise FormatError("damaged", path=file, expected="layers, and whether they are rounded")
    limits.LAYERS.check(len(layers), file)
    return BasePrints(file, {name: _parse(text, rounded, file) for name, text in layers.items()})


def _to_json(layers: Mapping[str, WeightPrint]) -> str:
    texts = {
        name: base64.urlsafe_b64encode(each.digest + each.sketch).decode()
        for name, each in layers.items()
    }
    rounded = any(each.rounded for each in layers.values())
    return json.dumps({"version": _VERSION, "rounded": rounded, "layers": texts}, indent=1)


def _parse(text: object, rounded: bool, file: Path) -> WeightPrint:
    try:
        data = base64.b64decode(str(text), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != 2 * _HALF:
        raise FormatError("damaged", path=file, found=text, expected="32 characters of base64")
    return WeightPrint(data[:_HALF], data[_HALF:], rounded)
