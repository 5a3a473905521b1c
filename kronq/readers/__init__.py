"""Readers of trained adapters, one module per format.

Each has ``detect(path) -> bool`` and ``read(path, options) -> Adapter``; the first whose ``detect``
is true reads the path. They are imported by name, when the first adapter is read.
"""

READERS = ("peft", "lycoris", "factors")
FORMATS = ("kronq", *READERS)
