"""Channel nodes: where messages enter and leave a hive.

Each module named after a node (`http`, `whatsapp`, `terminal`) is a process of its own:
`python -m skep_nodes.io.http --hive ROOT --config FILE`. The modules named `*_wire` hold formats and decide nothing
about sockets; `http_server` and `http_client` are the only ones that open any.
"""

from __future__ import annotations
