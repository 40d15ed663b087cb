"""Runs a node with every message it sends sampled: `python -m skep_nodes.cli.traced MODULE ARGUMENTS…`.

Only sampled messages leave hop records, and a node decides for itself what it samples. `skep up --trace` and the
demo want the way of every message, of nodes that know nothing of it, so they start them through this module. It
wraps the one function of the SDK that turns send options into a selector.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from skep import flows


def sample_everything() -> None:
    """From now on this process samples what it sends."""
    make_selector = flows.make_selector

    def sampled(hive_id: str, dst: Any, content_type: int, phase: int, options: dict[str, Any]) -> Any:
        return make_selector(hive_id, dst, content_type, phase, {**options, "sampled": True})

    flows.make_selector = sampled


def main() -> None:
    """Run the module that the first argument names, as `python -m` would."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m skep_nodes.cli.traced MODULE ARGUMENTS…")
    sample_everything()
    module = sys.argv[1]
    del sys.argv[0]
    sys.modules.pop(module, None)  # imported already where we are a fork: its functions have other globals
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
