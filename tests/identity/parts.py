"""What tests of identity share: a service on a real store, a fake clock, callers, and a recording publisher."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from skep_nodes.identity import ids
from skep_nodes.identity.audit import HeadFile
from skep_nodes.identity.callers import Caller
from skep_nodes.identity.kinds import Image
from skep_nodes.identity.refusal import Refusal
from skep_nodes.identity.service import Service
from skep_nodes.identity.store import Store
from skep_nodes.identity.verbs import Settings, verbs
from skep_nodes.identity.view import Change
from skep_nodes.sy.standing import Standing

HIVE = "test"
START_MS = 1_700_000_000_000
ADMIN = Caller(f"SY.admin@{HIVE}", Standing.SYSTEM)
DESK = Caller(f"SY.frontdesk.gov@{HIVE}", Standing.SYSTEM)
ORCHESTRATOR = Caller(f"SY.orchestrator@{HIVE}", Standing.SYSTEM)
CHANNEL = Caller(f"IO.whatsapp@{HIVE}", Standing.OWN)
AGENT = Caller(f"AI.desk@{HIVE}", Standing.OWN)


class Published:
    """Remembers what was published, in order."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.filled = 0

    async def fill(self, store: Store, tenants: Iterable[Any]) -> None:
        self.filled += 1

    def publish(self, image: Image) -> None:
        self.changes += image.changes


class Office:
    """A service and the voices that speak to it."""

    def __init__(self, service: Service, published: Published) -> None:
        self.service, self.published = service, published
        self.verbs = verbs(Settings(HIVE))
        self.now_ms = START_MS

    async def say(self, verb: str, payload: dict[str, Any], caller: Caller = ADMIN) -> dict[str, Any]:
        """What the node does with a message."""
        if not self.verbs[verb].allows(caller, HIVE):
            return {"status": "error", "error_code": "UNAUTHORIZED_REGISTRAR"}
        try:
            action = self.verbs[verb].read(payload, caller)
        except Refusal as refusal:
            return refusal.answer()
        return await self.service.submit(action)

    async def ok(self, verb: str, payload: dict[str, Any], caller: Caller = ADMIN) -> dict[str, Any]:
        answer = await self.say(verb, payload, caller)
        assert answer["status"] == "ok", answer
        return answer

    async def refused(self, verb: str, payload: dict[str, Any], caller: Caller = ADMIN) -> str:
        answer = await self.say(verb, payload, caller)
        assert answer["status"] == "error", answer
        return str(answer["error_code"])

    async def tenant(self, name: str = "acme", status: str = "active", **more: Any) -> str:
        return str((await self.ok("TNT_CREATE", {"name": name, "status": status, **more}))["tenant_id"])

    async def provision(self, tenant: str, address: str, kind: str = "whatsapp") -> str:
        return str((await self.ok("ILK_PROVISION", channel_of(address, tenant, kind), CHANNEL))["ilk_id"])

    async def person(self, tenant: str, address: str, email: str, caller: Caller = ADMIN) -> str:
        """Somebody who wrote once and was then registered."""
        ilk = await self.provision(tenant, address)
        await self.ok("ILK_REGISTER", human(ilk, tenant, email), caller)
        return ilk

    async def whole(self, ilk: str) -> dict[str, Any]:
        return dict((await self.ok("ILK_GET", {"ilk_id": ilk}))["ilk"])

    async def owner(self, tenant: str, address: str, kind: str = "whatsapp") -> str:
        """Who is behind an address now."""
        return await self.provision(tenant, address, kind)


def new_ilk() -> str:
    return ids.ilk_text(ids.new_id())


def new_ich() -> str:
    return ids.channel_text(ids.new_id())


def channel_of(address: str, tenant: str = "", kind: str = "whatsapp") -> dict[str, Any]:
    named = {"tenant_id": tenant} if tenant else {}
    return {"ich_id": new_ich(), "channel_type": kind, "address": address, **named}


def human(ilk: str, tenant: str, email: str = "", **more: Any) -> dict[str, Any]:
    known = {"display_name": "Ana", **({"email": email} if email else {})}
    return {"ilk_id": ilk, "ilk_type": "human", "tenant_id": tenant, "identification": known, **more}


def agent(ilk: str, tenant: str, node: str = "AI.desk", **more: Any) -> dict[str, Any]:
    known = {"node_name": node}
    return {"ilk_id": ilk, "ilk_type": "agent", "tenant_id": tenant, "identification": known, **more}


@asynccontextmanager
async def office(
    store: Store, folder: Path, at: Callable[[str], None] = lambda point: None
) -> AsyncIterator[Office]:
    """A service on a store, open and closed again."""
    published = Published()
    made: list[Office] = []
    service = Service(
        store,
        published,
        lambda: made[0].now_ms if made else START_MS,
        HeadFile(folder / "identity.head"),
        at=at,
    )
    made.append(Office(service, published))
    await service.open()
    try:
        yield made[0]
    finally:
        await service.close()
