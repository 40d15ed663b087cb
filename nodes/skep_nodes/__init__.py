"""Nodes that make a hive: system nodes (SY.*), channels (IO.*), agents (AI.*), and the `skep` command.

Every node here stands on the public `skep` API, as any author's node would; none imports the router.
"""
