"""Fetches what only tests and benchmarks need, where it may; else prints the line that installs it and goes on.

The order of preference: what PATH or .cache/bin already has; a build from the pinned Go module (nats-server: a
peer is worth comparing with only when it is new; opa: its version decides the bytes that are made); Debian's
package, as root. A tool that stays missing costs the tests and rows that need it, each counted and named; it never
stops the run, so this program exits 0.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
BIN = REPO / ".cache" / "bin"
NATS_MODULE = "github.com/nats-io/nats-server/v2@v2.15.2"
OPA_MODULE = "github.com/open-policy-agent/opa@v1.22.2"
OPA_SUM = "h1:WzqReKk2VjcvBN/NQTlcIxKqFPKpzIdb6KYMHzPEbe0="  # as the checksum database has it
OPA_RELEASE = "https://github.com/open-policy-agent/opa/releases/download/v1.22.2"
BUILD_S_MAX = 900
SERVERS = "/usr/lib/postgresql/*/bin"  # Debian keeps them off the PATH, by version
APT_S_MAX = 300


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: how to tell that it is there, what it is for, and Debian's packages of it."""

    name: str
    used_for: str
    packages: tuple[str, ...]
    build: Callable[[], bool] | None = None
    files: tuple[str, ...] = ()  # what the program cannot work without
    by_hand: str = ""  # the line that installs it where Debian has no package


def main() -> int:
    BIN.mkdir(parents=True, exist_ok=True)
    for tool in TOOLS:
        print(f"tools: {_obtain(tool)}", file=sys.stderr)
    return 0


def _obtain(tool: Tool) -> str:
    if found := _found(tool):
        return f"{tool.name}: {found}"
    if tool.build and tool.build() and (found := _found(tool)):
        return f"{tool.name}: built, {found}"
    if tool.packages and _apt_install(tool.packages) and (found := _found(tool)):
        return f"{tool.name}: installed, {found}"
    line = tool.by_hand or f"sudo apt-get install {' '.join(tool.packages)}"
    return f"{tool.name}: MISSING, so what needs it is skipped by name ({tool.used_for}). To have it: {line}"


def _found(tool: Tool) -> str | None:
    if not all(Path(file).exists() for file in tool.files):
        return None
    built = BIN / tool.name
    if os.access(built, os.X_OK):
        return str(built.relative_to(REPO))
    beside = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", *sorted(glob.glob(SERVERS))])
    return shutil.which(tool.name) or shutil.which(tool.name, path=beside)


def _build_nats() -> bool:
    """Needs Go of the module's own generation; an older one fails and Debian's package is taken instead."""
    go = _go()
    return go is not None and _go_install(go, NATS_MODULE)


def _build_opa() -> bool:
    """Needs Go of the module's own generation. Go asks the checksum database; that its answer is the one recorded
    here is asked besides, before anything is built."""
    go = _go()
    if go is None or not _sum_agrees(go, OPA_MODULE, OPA_SUM):
        return False
    return _go_install(go, OPA_MODULE)


def _go() -> str | None:
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def _sum_agrees(go: str, module: str, wanted: str) -> bool:
    """Whether the module's content has the recorded hash."""
    argv = [go, "mod", "download", "-json", module]
    try:
        done = subprocess.run(
            argv, cwd=BIN, env=_go_env(), timeout=BUILD_S_MAX, stdin=subprocess.DEVNULL, capture_output=True
        )
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"tools: go mod download: {error}", file=sys.stderr)
        return False
    if found.get("Sum") != wanted:
        said = found.get("Error") or f"has {found.get('Sum')}, recorded is {wanted}: not built"
        print(f"tools: {module}: {said}", file=sys.stderr)
    return found.get("Sum") == wanted


def _go_install(go: str, module: str) -> bool:
    print(f"tools: building {module} (some minutes, once)", file=sys.stderr)
    return _run([go, "install", "-trimpath", module], BUILD_S_MAX, _go_env())


def _go_env() -> dict[str, str]:
    return {**os.environ, "GOBIN": str(BIN), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}


def _apt_install(packages: Sequence[str]) -> bool:
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # installed, not started
    install = [apt, "install", "-y", "-qq", "--no-install-recommends", *packages]
    if _run(install, APT_S_MAX, env):
        return True
    return _run([apt, "update", "-qq"], APT_S_MAX, env) and _run(install, APT_S_MAX, env)


def _run(argv: Sequence[str], seconds: int, env: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            argv, env=env, timeout=seconds, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"tools: {argv[0]}: {error}", file=sys.stderr)
        return False
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        print(f"tools: {' '.join(argv[:2])} exited with {done.returncode}: {last[0]}", file=sys.stderr)
    return done.returncode == 0


TOOLS = (
    Tool("gcc", "the C reader of shared memory, the C load generator", ("gcc", "libc6-dev")),
    Tool("nats-server", "the benchmark's peer", ("nats-server",), _build_nats),
    Tool(
        "opa",
        "the compiler of policies",
        (),
        _build_opa,
        by_hand=f"curl -fLo .cache/bin/opa {OPA_RELEASE}/opa_linux_amd64_static && chmod +x .cache/bin/opa",
    ),
    Tool("initdb", "the identity database on PostgreSQL, and a peer of look-ups", ("postgresql",)),
    Tool("redis-server", "a peer of look-ups", ("redis-server",)),
    Tool("dovecot", "the mail server of the mail channel's tests", ("dovecot-imapd",)),
    Tool(
        "dbus-broker",
        "the benchmark's peer",
        ("dbus-broker", "dbus-session-bus-common"),
        files=("/usr/share/dbus-1/session.conf",),
    ),
)

if __name__ == "__main__":
    sys.exit(main())
