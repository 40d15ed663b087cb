"""An agent's seals in the store: granted, revoked, found broken, expired. What a seal says is not read here.

The row of a graduation never loses anything: a revocation adds when and why. What the agent's own row shows, and with
it the region that routers read, is its current graduation's status; so granting an older version again is a roll-back,
and nothing else has to be told.
"""

from __future__ import annotations

import uuid
from typing import Final

from skep_nodes.identity.records import Graduation, Ilk
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.tables import GRADUATIONS, ILKS
from skep_nodes.identity.view import Ask, View
from skep_shm import IlkKind, SealStatus

GRADUATIONS_MAX: Final = 1000
"""Of one agent: all are loaded together. A graduation a day for three years."""
SEAL_BYTES_MAX: Final = 64 << 10


def asks(ilk: bytes) -> list[Ask]:
    """What the functions below must see of an agent."""
    return [Ask(ILKS, "ilk_id", ilk), Ask(GRADUATIONS, "ilk_id", ilk)]


def degree_text(graduation: Graduation) -> str:
    """`degree:<uuid>/<version>`, as the region has it."""
    return f"degree:{uuid.UUID(bytes=graduation.degree)}/{graduation.version}"


def current(view: View, ilk: bytes) -> Graduation | None:
    """The graduation that counts: the newest, unless it was revoked."""
    found = view.graduations_of(ilk)
    return found[-1] if found and not found[-1].revoked_at_ms else None


def grant(view: View, graduation: Graduation, actor: str, reason: str) -> None:
    """Keep a graduation and make it the agent's current one. Raises Refusal."""
    agent = _agent(view, graduation.ilk)
    held = view.graduations_of(graduation.ilk)
    if len(held) >= GRADUATIONS_MAX or len(graduation.seal) > SEAL_BYTES_MAX:
        limit = f"at most {GRADUATIONS_MAX} graduations with seals of {SEAL_BYTES_MAX} bytes"
        raise Refusal(Code.IDENTITY_LIMIT_REACHED, limit)
    issued = max([graduation.issued_at_ms or view.now_ms, *(each.issued_at_ms + 1 for each in held)])
    graduation = graduation._replace(issued_at_ms=issued)
    view.put(GRADUATIONS, graduation)
    degree, until_ms = degree_text(graduation), graduation.valid_until_ms
    _show(view, agent._replace(degrees=(degree,), seal=graduation.status, seal_until_ms=until_ms))
    view.note(actor, "ILK_GRADUATED", agent.ilk, agent.tenant, reason, degree=degree)


def revoke(view: View, graduation: Graduation, actor: str, reason: str) -> None:
    """Take a graduation away; if it is the agent's current one, the agent has no valid seal from now on."""
    agent = _agent(view, graduation.ilk)
    held = view.graduations_of(graduation.ilk)
    gone = graduation._replace(status=SealStatus.REVOKED, revoked_at_ms=view.now_ms, reason=reason)
    view.put(GRADUATIONS, gone)
    if held and held[-1].graduation == graduation.graduation:
        _show(view, agent._replace(seal=SealStatus.REVOKED, seal_until_ms=0))
    view.note(actor, "SEAL_REVOKED", agent.ilk, agent.tenant, reason, degree=degree_text(graduation))


def set_seal(view: View, ilk: bytes, status: SealStatus, actor: str, reason: str) -> None:
    """Say what became of an agent's current seal: found broken, found whole again, expired."""
    agent = _agent(view, ilk)
    if agent.seal == status:
        return
    held = current(view, ilk)
    if held is not None:
        view.put(GRADUATIONS, held._replace(status=status))
    until_ms = held.valid_until_ms if held is not None and status is SealStatus.VALID else 0
    _show(view, agent._replace(seal=status, seal_until_ms=until_ms))
    view.note(actor, "SEAL_STATUS", agent.ilk, agent.tenant, reason, status=status.name)


def _agent(view: View, ilk: bytes) -> Ilk:
    agent = view.ilk(ilk)
    if agent is None or not agent.live:
        raise Refusal(Code.ILK_NOT_FOUND, "no such agent")
    if agent.kind == IlkKind.HUMAN:
        raise Refusal(Code.INVALID_REQUEST, "only agents and system nodes graduate")
    return agent


def _show(view: View, agent: Ilk) -> None:
    view.put(ILKS, agent._replace(updated_at_ms=view.now_ms))
