"""Agents: nodes that answer. `python -m skep_nodes.ai.desk --hive ROOT --config FILE` runs the first."""

from __future__ import annotations
