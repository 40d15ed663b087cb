"""A real router with real regions: a policy that this process signs, and identities that it publishes."""

from __future__ import annotations

from typing import Any

from hostile.line import Line
from router.governed import PEOPLE, TENANTS
from skep.protocol.message import Message
from skep_policy.authority import Authority
from skep_policy.bundle import pack
from skep_policy.compiler import compile_policy
from skep_policy.default import default_policy
from skep_shm import (
    ConfigState,
    ConfigWriter,
    Grant,
    IlkRecord,
    IlksWriter,
    PolicyState,
    PolicyStatus,
    PolicyWriter,
    TenantRecord,
    TenantsWriter,
)
from support.hives import HiveFolder, RouterProcess
from support.tools import need
from support.wait import eventually


def rules(*names: str, allow: str = "true") -> str:
    """A policy that leads to these names."""
    listed = ", ".join(f'"{name}"' for name in names)
    return f"package router\nimport rego.v1\ndefault target := [{listed}]\ndefault allow := {allow}\n"


class Live:
    """Writers of a hive's regions, and the router that reads them. Names of the tests' records end in @bee."""

    def __init__(self, folder: HiveFolder, *, identity: bool = True, grants: tuple[Grant, ...] = ()) -> None:
        self.folder, self.root, self.hive = folder, folder.root, folder.hive_id
        self.authority = Authority.load_or_create(self.root)
        self.config = ConfigWriter.create(self.root, self.hive)
        self.config.publish(ConfigState(version=1, grants=grants))
        self.policy = PolicyWriter.create(self.root, self.hive)
        self.router: RouterProcess | None = None
        self.version = 0
        self.askers = 0
        self.ilks: IlksWriter | None = None
        self.tenants: TenantsWriter | None = None
        self.lines: list[Line] = []
        if identity:
            self.publish(PEOPLE, TENANTS)

    def publish(self, people: tuple[IlkRecord, ...], tenants: tuple[TenantRecord, ...]) -> None:
        self.tenants = TenantsWriter.create(self.root, self.hive)
        self.tenants.fill(tenants)
        self.ilks = IlksWriter.create(self.root, self.hive, expected=len(people))
        self.ilks.fill(people)

    def start(self, *args: str) -> RouterProcess:
        self.router = self.folder.start_router("RT.main", *args)
        return self.router

    def apply(self, rego: str | None = None, *, spoil: bool = False, wait: bool = True) -> int:
        """Sign and publish a policy (None: the default one), and wait until the router decides by it."""
        if rego is not None:
            need("opa")
        compiled: Any = default_policy() if rego is None else compile_policy(rego)
        return self.publish_policy(compiled, spoil=spoil, wait=wait)

    def publish_policy(self, compiled: Any, *, spoil: bool = False, wait: bool = True) -> int:
        self.version += 1
        data = bytearray(pack(compiled, self.version, self.hive, self.authority))
        if spoil:
            data[-70] ^= 1
        self.policy.publish(PolicyState(self.version, PolicyStatus.OK, bytes(data)))
        if wait:
            self.until(version=self.version)
        return self.version

    def until(self, **facts: Any) -> None:
        """Until the router's `policy` says so."""
        asker = self.asker()
        eventually(lambda: facts.items() <= self.stats(asker)["policy"].items(), 10, f"a router with {facts}")
        asker.close()

    def until_known(self) -> None:
        asker = self.asker()
        eventually(lambda: self.stats(asker)["identity"]["there"], 10, "identities known")
        asker.close()

    def asker(self) -> Line:
        """Somebody to ask the router. System names are single, and the one before may not be gone yet."""
        self.askers += 1
        return self.node(f"SY.asker{self.askers}")

    def stats(self, asker: Line) -> dict[str, Any]:
        asker.say("RT.main", None, message_class=2, verb="ROUTER_STATS")
        answer: Message = asker.read()
        payload: dict[str, Any] = answer.payload
        return payload

    def node(self, name: str, *, native: bool = True, uid: int = 0) -> Line:
        line = Line(self.router.socket, uid).hello(name, native=native)
        self.lines.append(line)
        return line

    def close(self) -> None:
        for line in self.lines:
            line.close()
        if self.router is not None and self.router.running():
            self.router.stop()
        for writer in (self.ilks, self.tenants, self.policy, self.config):
            if writer is not None:
                writer.close()


def log_of(router: RouterProcess, event: str) -> list[str]:
    return [line for line in router.log().splitlines() if f'"event":"{event}"' in line]
