"""`python -m skep_nodes.cli` is the `skep` command, for a checkout that is not installed."""

from __future__ import annotations

import sys

from skep_nodes.cli import main

sys.exit(main())
