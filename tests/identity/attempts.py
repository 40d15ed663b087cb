"""Ways into another tenant's affairs, generated from a seed: two tenants, and who tries what."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from identity.parts import ADMIN, DESK, HIVE, Office, agent, channel_of, human, new_ich, new_ilk
from skep_nodes.identity import ids
from skep_nodes.identity.callers import Caller
from skep_nodes.sy.standing import Standing
from skep_shm import Grant, IlkMode

SEED, PEOPLE, AT_ONCE = 14, 12, 256
ADMIN_VERBS = (
    "ILK_LIST", "ILK_HISTORY", "IDENTITY_EXPORT", "ILK_MERGE", "ILK_SPLIT", "ILK_DELETE", "TNT_LIST", "TNT_SUSPEND",
    "ILK_UPDATE", "ILK_REGISTER", "ILK_ADD_CHANNEL", "IDENTITY_IMPORT",
)  # fmt: skip
WHY = {"change_reason": "because"}
Attempt = tuple[str, dict[str, Any], Caller]


@dataclass
class Tenant:
    """One tenant's people, and what must never be seen outside it. `marks` are in no other tenant."""

    colour: str
    key: str
    ilks: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    def speaker(self, base: str) -> Caller:
        """A node of another account whose grant names this tenant."""
        grant = Grant(4000, base, IlkMode.ANY, tenant=ids.parse(ids.TENANT, self.key) or b"")
        return Caller(f"{base}@{HIVE}", Standing.FOREIGN, (grant,))


async def settled(office: Office, colour: str) -> Tenant:
    """A tenant with registered people, one that was merged, an agent, and telling names and addresses."""
    made = Tenant(colour, await office.tenant(colour))
    for number in range(PEOPLE):
        ilk = await office.provision(made.key, f"+{number}")  # the same numbers in both
        email, name = f"{colour}{number}@canary.example", f"Canary {colour.title()} {number}"
        known = human(ilk, made.key, email)
        known["identification"]["display_name"] = name
        await office.ok("ILK_REGISTER", known)
        mail = {"ich_id": new_ich(), "type": "email", "address": f"own-{email}"}
        await office.ok("ILK_ADD_CHANNEL", {"ilk_id": ilk, "channel": mail, **WHY})
        made.ilks.append(ilk)
        made.marks += [ilk, email, name]
    await office.ok("ILK_MERGE", {"ilk_id": made.ilks[0], "merge_from_ilk_id": made.ilks[1], **WHY})
    made.ilks.append((await office.ok("ILK_REGISTER", agent(new_ilk(), made.key, f"AI.{colour}")))["ilk_id"])
    made.marks += [made.ilks[-1], made.key]
    return made


def attempts(own: Tenant, other: Tenant, count: int) -> Iterator[Attempt]:
    """What a channel and an agent of `own` try against `other`, and what `own`'s people talk the front desk into."""
    chance = random.Random(SEED)
    channel, robot = own.speaker(f"IO.{own.colour}"), own.speaker(f"AI.{own.colour}")
    for number in range(count):
        victim, person = chance.choice(other.ilks), chance.choice(own.ilks)
        address = chance.choice(
            (f"+{chance.randrange(PEOPLE)}", f"own-{other.colour}{chance.randrange(PEOPLE)}@canary.example")
        )
        kind = "email" if "@" in address else "whatsapp"
        yield chance.choice((
            ("ILK_GET", {"ilk_id": victim}, chance.choice((channel, robot))),
            ("ILK_PROVISION", channel_of(address, other.key, kind), channel),
            ("ILK_PROVISION", channel_of(address, "", kind), channel),
            ("ILK_PROVISION", {**channel_of(f"+9{number}"), "ilk_id": victim}, channel),
            ("ILK_PROVISION", channel_of(address, other.key, kind), robot),
            (chance.choice(ADMIN_VERBS), {"ilk_id": victim, "tenant_id": other.key}, chance.choice((channel, robot))),
            ("ILK_REGISTER", human(victim, own.key, "new@own.example"), DESK),
            ("ILK_REGISTER", human(person, other.key, "new@own.example"), DESK),
            ("ILK_ADD_CHANNEL", _join(victim, person, address, kind), DESK),
            ("ILK_ADD_CHANNEL", _join(person, victim, address, kind), DESK),
            ("ILK_MERGE", {"ilk_id": person, "merge_from_ilk_id": victim, **WHY}, ADMIN),
            ("TNT_CREATE", {"name": other.colour}, DESK),
        ))  # fmt: skip


def _join(ilk: str, source: str, address: str, kind: str) -> dict[str, Any]:
    channel = {"ich_id": new_ich(), "type": kind, "address": address}
    return {"ilk_id": ilk, "channel": channel, "merge_from_ilk_id": source, "proof": "code", **WHY}


async def succeeded(
    office: Office, own: Tenant, other: Tenant, tries: list[Attempt]
) -> list[tuple[Attempt, Any]]:
    """The attempts whose answer tells of the other tenant what the question did not, or that were carried out."""
    found = []
    for at in range(0, len(tries), AT_ONCE):
        some = tries[at : at + AT_ONCE]
        answers = await asyncio.gather(*(office.say(verb, payload, caller) for verb, payload, caller in some))
        for attempt, answer in zip(some, answers, strict=True):
            if _tells(other, attempt, answer) or not _harmless(own, attempt, answer):
                found.append((attempt, answer))
    return found


def _tells(other: Tenant, attempt: Attempt, answer: dict[str, Any]) -> bool:
    said, asked = json.dumps(answer), json.dumps(attempt[1])
    return any(mark in said and mark not in asked for mark in other.marks)


def _harmless(own: Tenant, attempt: Attempt, answer: dict[str, Any]) -> bool:
    """Refused; or an address that the other tenant has too, as somebody of one's own."""
    return answer["status"] == "error" or (attempt[0] == "ILK_PROVISION" and "tenant_id" not in attempt[1])
