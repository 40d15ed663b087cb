"""The demo's hive: which nodes it has, and a private folder to run it in.

`skep up` runs all of it but the desk, which comes when it has graduated (`demo_school`): routers of this hive give an
agent without a valid seal no messages.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from skep.hive import Hive
from skep_nodes.cli.children import python
from skep_nodes.cli.hive_file import NodeEntry
from skep_nodes.cli.hive_folder import make_hive

HIVE_ID = "demo"
NUMBER_ID = "100200300"
WHO = "agents:\n- {node: AI.desk}\n"
READY_S, STOP_S, POLL_S = 20.0, 8.0, 0.01  # of a loaded machine; a hive is ready in a few seconds


def entries(hive: Hive) -> list[NodeEntry]:
    """What `skep up --demo` starts: a desk that answers from the sample documents, reached over HTTP."""
    return [
        NodeEntry(name="AI.desk", module="skep_nodes.ai.desk"),
        NodeEntry(name="IO.http", module="skep_nodes.io.http"),
    ]


class DemoError(Exception):
    """An expectation of the demo that did not hold."""


class DemoHive:
    """A private hive under a short path, run by a real `skep up`; leaving it stops it and removes the folder."""

    def __init__(
        self, api_url: str, mail: dict[str, Any], script: Sequence[str], *, keep: bool
    ) -> None:
        self._keep = keep
        self.app_secret = secrets.token_hex(16)
        # Not TMPDIR: a Unix socket's path has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="skep-", dir="/tmp"))
        self._folder.chmod(0o755)
        _, self.hive = make_hive(self._folder / "h", HIVE_ID)
        self._write(api_url, mail, script)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def root(self) -> Path:
        return self.hive.root

    def _write(self, api_url: str, mail: dict[str, Any], script: Sequence[str]) -> None:
        """hive.yaml, the channels' secrets and what the scripted person types."""
        folder = self.hive.state_dir / "secrets"
        folder.mkdir(mode=0o700)
        names = ("app_secret", "verify_token", "access_token")
        values = {name: self.app_secret if name == "app_secret" else secrets.token_hex(16) for name in names}
        _private(folder / "IO.whatsapp.json", json.dumps(values))
        account = {"imap_user": "shop", "imap_password": secrets.token_hex(16)}
        boxes = {box["address"]: account for box in mail["mailboxes"]}
        _private(folder / "IO.email.json", json.dumps(boxes))
        lines = self.root / "state" / "person.txt"
        _private(lines, "\n".join(script) + "\n")
        whatsapp = {"port": 0, "base_url": api_url, "numbers": [{"phone_number_id": NUMBER_ID}]}
        nodes: list[dict[str, Any]] = [
            {"name": "IO.whatsapp", "module": "skep_nodes.io.whatsapp", "settings": whatsapp},
            {"name": "IO.email", "module": "skep_nodes.io.email", "settings": mail},
            {
                "name": "IO.terminal", "module": "skep_nodes.io.terminal", "restart": "never",
                "args": ["--script", str(lines)], "settings": {"person": "Dana"},
            },
        ]  # fmt: skip
        # JSON is YAML: nothing here needs a person's eye.
        (self.root / "hive.yaml").write_text(
            f"hive_id: {HIVE_ID}\nready_s: {READY_S:g}\nseals: require\nnodes: {json.dumps(nodes)}\n"
        )
        (self.hive.config_dir / "identity.yaml").write_text(WHO)

    def __enter__(self) -> DemoHive:
        up = python("skep_nodes.cli", "up", "--trace", "--hive", str(self.root))
        try:
            self._wait_ready(*self._start("up", up))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def start_agent(self) -> None:
        """AI.desk, which has graduated meanwhile."""
        settings = self.root / "run" / "nodes" / "AI.desk.json"
        settings.write_text(json.dumps({"degree": "state/degrees/agents/AI.desk"}))
        module = ("skep_nodes.cli.traced", "skep_nodes.ai.desk")
        self._start("AI.desk", python(*module, "--hive", str(self.root), "--config", str(settings)))

    def _start(self, name: str, command: list[str]) -> tuple[Path, subprocess.Popen[bytes]]:
        log = self.root / "logs" / f"{name}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEP_")}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
            )
        self._processes.append(process)
        return log, process

    def _wait_ready(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_S
        while f"hive {HIVE_ID} ready" not in (text := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"the hive did not start:\n{text}{self.logs()}")
            time.sleep(POLL_S)

    def screen(self, name: str) -> str:
        """What a node of this hive has shown to whoever sits before it."""
        return (self.root / "logs" / f"{name}.log").read_text(errors="replace")

    def logs(self) -> str:
        """The last lines of every process, for a failure."""
        parts = []
        for path in sorted((self.root / "logs").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-8:]
            parts += [f"--- {path.name}", *lines] if lines else []
        return "\n".join(parts)

    def channel_url(self) -> str:
        """Where IO.whatsapp listens. A node is in the table a moment before it serves, so this may have to wait."""
        path = self.root / "run" / "IO.whatsapp.json"
        deadline = time.monotonic() + READY_S
        while not path.exists():
            if time.monotonic() > deadline:
                raise DemoError(f"IO.whatsapp does not listen:\n{self.logs()}")
            time.sleep(POLL_S)
        facts = json.loads(path.read_text())
        return f"http://{facts['host']}:{facts['port']}/webhook"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            _end(process)
        if self._keep:
            print(f"kept: {self.root}", file=sys.stderr)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
