"""Which version this is, without importing anything that costs time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

VERSION_UNKNOWN = "0.0.0+unknown"


def own_version() -> str:
    """The version of this checkout's pyproject.toml, else that of the installed distribution."""
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if project.is_file():
        found = re.search(r'^version = "([^"]+)"', project.read_text(), re.MULTILINE)
        if found:
            return found[1]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("skep")
    except PackageNotFoundError:
        return VERSION_UNKNOWN


def all_versions() -> dict[str, Any]:
    """What `skep version -o json` and `skep doctor` show."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {
        "skep": own_version(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    for name in ("uvloop", "orjson", "msgpack", "posix_ipc", "pydantic", "typer"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
