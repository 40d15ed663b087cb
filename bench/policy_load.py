"""What the rows of suite_policy share: a hive's data, questions that nobody asked before, and OPA's own server."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from bench.machine import BIN, NotRunError, move
from skep.protocol.errors import PolicyError
from skep.protocol.header import DstKind, Selector, pack_key
from skep_policy.decider import Asked, Decider
from skep_policy.default import REGO, default_policy
from skep_policy.documents import Documents, Patch, ilk_name, record_document
from skep_policy.evaluator import Evaluator
from skep_policy.input import Wanted, statuses_of
from skep_policy.manifest import ALLOW, TARGET
from skep_policy.module import Module
from skep_policy.opa import need_opa
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, Subtype, TenantRecord, TenantStatus

TENANTS = 20
CROWD = 10  # agents that share a second capability; the first is each agent's own
SERVER_WITHIN_S = 20.0


class Hive:
    """Agents and people, one decider over them."""

    def __init__(self, agents: int) -> None:
        compiled = default_policy()
        self.manifest = compiled.manifest
        self.dice = random.Random(agents)
        self.documents = Documents(
            {"frontdesk": "SY.frontdesk.gov@bench", "identity": True, "seals": "require"}
        )
        for number in range(TENANTS):
            self.documents.set_tenant(TenantRecord(_id(b"t", number), TenantStatus.ACTIVE))
        self.agents = [self.agent(number) for number in range(agents)]
        for record in self.agents:
            self.documents.set(record)
        roots = {root for reads in self.manifest.reads.values() for root in reads.data}
        self.engine = Evaluator(Module.load(compiled.wasm), self.documents.whole(), roots=roots)
        self.decider = Decider(self.engine, self.manifest, self.documents)
        self._number = 0

    def agent(self, number: int, handler: str = "") -> IlkRecord:
        return IlkRecord(
            _id(b"a", number), IlkKind.AGENT, registration=Registration.COMPLETE, seal=SealStatus.VALID,
            tenant=_id(b"t", number // CROWD % TENANTS), handler=handler or f"AI.n{number}@bench",
            capabilities=(f"skill-{number}", f"team-{number // CROWD}"), roles=("first-line",),
        )  # fmt: skip

    def question(self, entrypoint: str, crowd: bool = False) -> Asked:
        """One that was never asked: another person, another agent's capability, or one that ten agents share."""
        self._number += 1
        agent = self.agents[self.dice.randrange(len(self.agents))]
        who = IlkRecord(
            _id(b"h", self._number), IlkKind.HUMAN, Subtype.EXTERNAL, Registration.COMPLETE, tenant=agent.tenant,
        )  # fmt: skip
        facts: dict[str, Any] = {"action": "read", "src_ilk": who.ilk}
        if entrypoint == TARGET:
            facts["context"] = orjson.dumps({"required_capability": agent.capabilities[crowd]})
        else:
            facts |= {"dst_ilk": agent.ilk, "dst_kind": DstKind.NAME, "destination": agent.handler.encode()}
        selector, source = Selector(**facts), _id(b"s", self._number % 64)
        dst = None if entrypoint == TARGET else agent
        return Asked(pack_key(source, selector), selector, source, "IO.web@bench", who, dst)

    def lean(self, entrypoint: str, asked: Asked) -> bytes:
        """As the decider gives it to the engine."""
        wanted = Wanted(self.manifest.reads[entrypoint])
        return wanted.text(asked, statuses_of(asked, self.documents))

    def change(self) -> list[Patch]:
        """One agent moves to another node."""
        number = self.dice.randrange(len(self.agents))
        return self.documents.set(self.agent(number, f"AI.n{number}-{self.dice.randrange(1000):03}@bench"))

    def change_all(self) -> None:
        """Each agent once: from here on a change makes nothing that was not there before."""
        for number in range(len(self.agents)):
            self.engine.apply(
                self.documents.set(self.agent(number, f"AI.n{number}-{number % 1000:03}@bench"))
            )

    def close(self) -> None:
        self.engine.close()


@contextlib.contextmanager
def hive_of(agents: int) -> Iterator[Hive]:
    hive = Hive(agents)
    try:
        yield hive
    finally:
        hive.close()


@contextlib.contextmanager
def opa_server(data: bytes, core: int) -> Iterator[socket.socket]:
    """A connection to `opa run --server` over a Unix socket, with the same policy and data."""
    try:
        opa = need_opa()
    except PolicyError as error:
        raise NotRunError(f"{error.detail}; {BIN} is where `make tools` puts it") from None
    with tempfile.TemporaryDirectory(prefix="skep-opa-") as folder:
        path = str(Path(folder, "s"))
        Path(folder, "data.json").write_bytes(data)
        child = subprocess.Popen(
            [opa, "run", "--server", "--addr", f"unix://{path}", "--log-level", "error", REGO, "data.json"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            move(child.pid, core)
            yield _connected(path, child)
        finally:
            child.kill()
            child.wait()


def _connected(path: str, child: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + SERVER_WITHIN_S
    while time.monotonic() < deadline and child.poll() is None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            time.sleep(0.05)
        else:
            return connection
    raise NotRunError("opa run --server did not answer")


def ask_server(connection: socket.socket, entrypoint: str, input: bytes) -> Any:
    """One question and its answer, on a connection that is kept."""
    body = b'{"input":' + input + b"}"
    head = f"POST /v1/data/{entrypoint} HTTP/1.1\r\nHost: opa\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head_bytes, _, rest = received.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head_bytes.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(rest) < length:
        rest += connection.recv(65536)
    return json.loads(rest).get("result")


def _id(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(15, "big")


__all__ = ["ALLOW", "TARGET", "Hive", "ask_server", "hive_of", "ilk_name", "opa_server", "record_document"]
