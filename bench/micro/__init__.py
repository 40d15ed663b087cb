"""Micro benchmarks (pytest-benchmark): one operation each, its result checked."""
