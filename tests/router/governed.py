"""A router with identities and a policy, without regions and engines: what the tests of both share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policy.engines import FakeEngine
from router.wire import HIVE, Peer, Router
from skep.protocol.header import Phase
from skep_policy.decider import Decider
from skep_policy.documents import Documents
from skep_policy.manifest import ALLOW, DATA_ROOTS, TARGET, Manifest, Reads
from skep_router.changes import IdentityChange
from skep_router.identities import Unreadable
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, Subtype, TenantRecord, TenantStatus

MANIFEST = Manifest(
    version=1, reads={TARGET: Reads(("agents", "capability"), False), ALLOW: Reads((), False)},
    cacheable={TARGET: True, ALLOW: True},
)  # fmt: skip
READS_ALL = Manifest(version=1, reads={TARGET: Reads(DATA_ROOTS, True), ALLOW: Reads(DATA_ROOTS, True)})
ANA, BEN, TEMP, BOT, RIVAL, BOSS = (bytes((n,)) * 16 for n in range(1, 7))
RED, BLUE = b"r" * 16, b"b" * 16
DESK = f"SY.frontdesk.gov@{HIVE}"


def human(
    ilk: bytes, tenant: bytes = RED, registration: Registration = Registration.COMPLETE, **facts: Any
) -> IlkRecord:
    facts.setdefault("subtype", Subtype.EXTERNAL)
    return IlkRecord(ilk, IlkKind.HUMAN, registration=registration, tenant=tenant, **facts)


def agent(ilk: bytes, name: str, tenant: bytes = RED, seal: SealStatus = SealStatus.VALID, **facts: Any) -> IlkRecord:
    return IlkRecord(
        ilk, IlkKind.AGENT, registration=Registration.COMPLETE, seal=seal, tenant=tenant, handler=f"{name}@{HIVE}",
        **facts,
    )  # fmt: skip


PEOPLE = (
    human(ANA), human(BEN, BLUE), human(TEMP, bytes(16), Registration.TEMPORARY), agent(BOT, "AI.bot"),
    agent(RIVAL, "AI.rival", BLUE), human(BOSS, subtype=Subtype.INTERNAL, handler=f"IO.boss@{HIVE}"),
)  # fmt: skip
TENANTS = (TenantRecord(RED, TenantStatus.ACTIVE), TenantRecord(BLUE, TenantStatus.ACTIVE))


class Region:
    """The ilks region: a dict that can become unreadable."""

    def __init__(self) -> None:
        self.records: dict[bytes, IlkRecord] = {}
        self.readable = True

    def find(self, ilk: bytes) -> IlkRecord | None:
        if not self.readable:
            raise Unreadable("the region is damaged")
        return self.records.get(ilk)


class Governed(Router):
    """A router, and hands on what it is told by regions and operators."""

    def __init__(self, *, people: tuple[IlkRecord, ...] | None = PEOPLE, **settings: Any) -> None:
        super().__init__(**settings)
        self.region = Region()
        self.engine: FakeEngine | None = None
        if people is not None:
            self.region.records = {record.ilk: record for record in people}
            known = IdentityChange(people, (), TENANTS)
            self.core.identity_known(self.region.find, known, self.now)

    def change(self, *records: IlkRecord, gone: tuple[bytes, ...] = (), tenants: tuple[TenantRecord, ...] = ()) -> None:
        self.region.records |= {record.ilk: record for record in records}
        for ilk in gone:
            self.region.records.pop(ilk, None)
        self.core.identity_changed(IdentityChange(records, gone, tenants), self.now)

    def govern(self, manifest: Manifest = MANIFEST, *, ns: int = 10_000, **rules: Callable[..., Any]) -> FakeEngine:
        """Load a policy. Rules by entry point; those not given are harmless."""
        rules.setdefault("target", lambda _i, _d: ["AI.bot"])
        rules.setdefault("allow", lambda _i, _d: True)
        documents = Documents({"frontdesk": DESK, "identity": self.core.identities.there})
        for record in self.core.identities.records.values():
            documents.set(record)
        for tenant, status in self.core.identities.tenants.items():
            documents.set_tenant(TenantRecord(tenant, status))
        self.engine = FakeEngine(documents.whole(), ns=ns, **rules)
        decider = Decider(self.engine, manifest, documents, labels={"hive": HIVE})
        before = self.core.use_policy(decider, manifest.version, "h", self.now)
        if before is not None:
            before.close()
        return self.engine

    def asked(self, entrypoint: str) -> int:
        assert self.engine is not None
        return sum(name == entrypoint for name, _ in self.engine.asked)


def told(peer: Peer) -> list[dict[str, Any]]:
    """Payloads of the refusals that a node heard since it was asked last."""
    return [message.payload for message in peer.read() if message.verb == "UNREACHABLE"]


def outcome(sender: Peer, *receivers: Peer, **facts: Any) -> str:
    """Send one message: the name of whoever got it, or the reason why nobody did."""
    for peer in (sender, *receivers):
        peer.read()
    sender.send(facts.pop("dst", None), **facts)
    refusals = [payload["reason"] for payload in told(sender)]
    got = [peer.name.partition("@")[0] for peer in receivers if [m for m in peer.read() if m.verb != "UNREACHABLE"]]
    assert len(refusals) + len(got) == 1, (refusals, got)
    return (refusals or got)[0]


REPLY = Phase.REPLY
