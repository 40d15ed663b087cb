"""Benchmarks: Skep beside its peers, in one run, pinned alike, with every count checked.

`python -m bench` measures and writes `results/latest.json`; docs/benchmarks.md explains method, rows and targets.
"""
