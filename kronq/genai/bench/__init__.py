"""Benchmarks of what an adapter costs at run time."""
