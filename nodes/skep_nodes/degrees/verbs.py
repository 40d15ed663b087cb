"""What SY.registrar tells SY.identity: an agent's seal was granted, revoked, found broken or whole. Two verbs.

SY.identity serves them on its own store, in its own transactions (`skep_nodes.identity`), so an agent's row, and with
it the region that routers read, always shows the seal that counts. Telling it the same again changes nothing: the
registrar repeats what was not answered. A degree's capabilities come with its seal and go with it; those that the
agent has otherwise stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from skep.protocol.names import base_of
from skep.seal import DOCUMENT_BYTES_MAX, TIME_MAX_MS, VERSION_MAX
from skep_nodes.identity import graduations, limits
from skep_nodes.identity.callers import Caller
from skep_nodes.identity.fields import Fields
from skep_nodes.identity.records import Graduation, Ilk
from skep_nodes.identity.refusal import Code, Refusal, invalid
from skep_nodes.identity.tables import ILKS
from skep_nodes.identity.verb import Verb
from skep_nodes.identity.view import Ask, View
from skep_shm import SealStatus

_GRANT: Final = (
    "ilk", "handler", "serial", "degree", "degree_version", "capabilities", "seal", "from_ms", "until_ms", "issuer",
    "reason",
)  # fmt: skip
_STATUS: Final = ("ilk", "serial", "status", "reason")
_STATUSES: Final = {status.name: int(status) for status in SealStatus}


@dataclass(frozen=True, slots=True)
class GrantSeal:
    """SEAL_GRANT: this is the agent's seal from now on."""

    graduation: Graduation
    handler: str
    capabilities: tuple[str, ...]
    actor: str
    reason: str

    def needs(self, view: View) -> Iterable[Ask]:
        return graduations.asks(self.graduation.ilk)

    def run(self, view: View) -> dict[str, Any]:
        ilk = self.graduation.ilk
        held = view.graduations_of(ilk)
        if any(each.graduation == self.graduation.graduation for each in held):
            return {"status": "ok", "changed": False}
        self._check_node(view.ilk(ilk))
        before = graduations.current(view, ilk)
        graduations.grant(view, self.graduation, self.actor, self.reason)
        _exchange(view, ilk, capabilities_of(before), self.capabilities)
        return {"status": "ok", "changed": True}

    def _check_node(self, agent: Ilk | None) -> None:
        """The seal names the node that answers for the agent; another would be routed to without having it."""
        if agent is not None and base_of(agent.node_name) != base_of(self.handler):
            has = agent.node_name or "no node"
            raise invalid(f"the agent is registered with {has}, the seal is for {self.handler}; update one of them")


@dataclass(frozen=True, slots=True)
class SetSealStatus:
    """SEAL_STATUS: what became of a seal."""

    ilk: bytes
    serial: bytes
    status: SealStatus
    actor: str
    reason: str

    def needs(self, view: View) -> Iterable[Ask]:
        return graduations.asks(self.ilk)

    def run(self, view: View) -> dict[str, Any]:
        held = view.graduations_of(self.ilk)
        found = next((each for each in held if each.graduation == self.serial), None)
        if found is None:
            raise Refusal(Code.NOT_FOUND, "no such seal; SEAL_GRANT comes first")
        if found.revoked_at_ms or found is not held[-1]:
            return {"status": "ok", "changed": False}  # a seal that no longer counts cannot become anything
        if self.status is SealStatus.REVOKED:
            graduations.revoke(view, found, self.actor, self.reason)
            _exchange(view, self.ilk, capabilities_of(found), ())
        else:
            graduations.set_seal(view, self.ilk, self.status, self.actor, self.reason)
        return {"status": "ok", "changed": True}


def capabilities_of(graduation: Graduation | None) -> tuple[str, ...]:
    """What a graduation granted; it is kept beside the seal."""
    return tuple(orjson.loads(graduation.seal)["capabilities"]) if graduation is not None else ()


def _exchange(view: View, ilk: bytes, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    agent = view.ilk(ilk)
    assert agent is not None, "graduations refused it otherwise"
    tags = tuple(sorted({*agent.capabilities} - {*old} | {*new}))
    if len(tags) > limits.TAGS_MAX:
        raise Refusal(Code.IDENTITY_LIMIT_REACHED, f"{len(tags)} capabilities, {limits.TAGS_MAX} at most")
    view.put(ILKS, agent._replace(capabilities=tags))


def _read_grant(payload: Mapping[str, Any], caller: Caller) -> GrantSeal:
    take = Fields(payload, _GRANT)
    capabilities = take.tags("capabilities")
    kept = orjson.dumps({"seal": take.object("seal", required=True), "capabilities": list(capabilities)})
    if len(kept) > DOCUMENT_BYTES_MAX:
        raise invalid(f"a seal has at most {DOCUMENT_BYTES_MAX} bytes")
    graduation = Graduation(
        take.key("serial", "seal:"), take.key("ilk", "ilk:"), take.key("degree", "degree:"),
        take.whole("degree_version", 1, VERSION_MAX), kept, issuer=take.text("issuer", limits.NODE_NAME_CHARS_MAX),
        issued_at_ms=take.whole("from_ms", 0, TIME_MAX_MS), valid_until_ms=take.whole("until_ms", 1, TIME_MAX_MS),
    )  # fmt: skip
    handler = take.text("handler", limits.NODE_NAME_CHARS_MAX)
    return GrantSeal(
        graduation, handler, capabilities, caller.name, take.text("reason", limits.REASON_CHARS_MAX, "")
    )


def _read_status(payload: Mapping[str, Any], caller: Caller) -> SetSealStatus:
    take = Fields(payload, _STATUS)
    status = SealStatus(take.choice("status", _STATUSES))
    reason = take.text("reason", limits.REASON_CHARS_MAX, "")
    return SetSealStatus(take.key("ilk", "ilk:"), take.key("serial", "seal:"), status, caller.name, reason)


VERBS: Final = {
    "SEAL_GRANT": Verb(("SY.registrar",), _read_grant),
    "SEAL_STATUS": Verb(("SY.registrar",), _read_status),
}
