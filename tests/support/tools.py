"""Programs that only some tests need: found in .cache/bin or PATH, else a skip that says how to get them.

`tools/fetch.py` puts what it builds into .cache/bin. A missing tool is never a silent pass: the skip is
counted and named in the closing summary.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BIN = REPO / ".cache" / "bin"

INSTALL = {
    "gcc": "apt-get install gcc libc6-dev",
    "nats-server": "make tools (builds it where Go is installed), or apt-get install nats-server",
    "dbus-broker": "apt-get install dbus-broker dbus-session-bus-common",
    "dbus-broker-launch": "apt-get install dbus-broker dbus-session-bus-common",
    "debootstrap": "apt-get install debootstrap",
    "opa": "make tools (builds it where Go is installed), or put opa 1.22.2 of its releases into .cache/bin",
    "root": "run the tests as root",
}


def find(tool: str) -> str | None:
    """Path of `tool`, or None. "root" stands for the right to change uids."""
    if tool == "root":
        return "uid 0" if os.geteuid() == 0 else None
    built = BIN / tool
    if os.access(built, os.X_OK):
        return str(built)
    return shutil.which(tool)


def missing(tool: str) -> str:
    """The reason a test is skipped for: what is missing and the line that installs it."""
    return f"needs {tool}: not found; to run this test: {INSTALL.get(tool, f'install {tool}')}"


def need(tool: str) -> str:
    """Path of `tool`; skips the running test, by name, where it is missing."""
    found = find(tool)
    if found is None:
        pytest.skip(missing(tool))
    return found


def need_root() -> None:
    """For tests that switch uids."""
    need("root")
