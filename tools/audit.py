"""Known vulnerabilities in the locked versions. What could not be looked up is said, and is never a pass.

pip-audit exits 0 when its service does not know a package or cannot be reached, which reads like "nothing found". This
program counts: exit 0 all looked up and clean, 1 a vulnerability, 3 some or all versions could not be looked up here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = (Path("requirements/run.txt"), Path("requirements/dev.txt"))
SECONDS_MAX = 600


def main() -> int:
    seen = {entry["name"]: entry for lock in LOCKS for entry in _audit(lock)}
    unknown = sorted(name for name, entry in seen.items() if "vulns" not in entry)
    hit = {name: entry for name, entry in seen.items() if entry.get("vulns")}
    for name, entry in sorted(hit.items()):
        for vulnerability in entry["vulns"]:
            fixed = ", ".join(vulnerability.get("fix_versions", [])) or "no fix yet"
            print(f"{name} {entry['version']}: {vulnerability['id']} (fixed in: {fixed})")
    looked_up = len(seen) - len(unknown)
    print(f"audit: {len(seen)} locked versions, {looked_up} looked up, {len(hit)} vulnerable", end="")
    print(f", {len(unknown)} NOT AUDITED" if unknown else "")
    if unknown:
        print(
            "audit: no vulnerability data for them from here; run `make audit` where the service is reached"
        )
    return 1 if hit else 3 if unknown or not seen else 0


def _audit(lock: Path) -> list[dict[str, Any]]:
    """pip-audit's entries for one lock; none when it failed altogether (its own words go to stderr)."""
    argv = ["-m", "pip_audit", "--disable-pip", "--require-hashes", "-r", str(lock), "--format", "json"]
    ran = subprocess.run(
        [sys.executable, *argv, "--progress-spinner", "off"],
        capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    try:
        entries: list[dict[str, Any]] = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"audit: {lock}: {ran.stderr.strip()[-500:]}", file=sys.stderr)
        return []
    return entries


if __name__ == "__main__":
    sys.exit(main())
