"""Benchmark of an adapter's run-time cost."""
