"""The base's graph: its linear layers (sites), and which layer of an adapter belongs to which."""
