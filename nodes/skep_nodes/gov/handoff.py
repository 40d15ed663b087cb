"""A channel's hand-off: the data of one interlocutor at once, answered with a result object.

    {"type": "frontdesk_handoff", "schema_version": 1, "operation": "complete_registration",
     "subject": {"display_name", "email", "phone"?, "company_name"?, "attributes"?}, "tenant_id"?, "context"?}

Nobody proves anything here, so nobody is joined with anybody: an address that is known is an error. A `tenant_id` has
to be the one that the interlocutor is in; a company's name is kept as what was said, and decides nothing.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from skep.protocol.names import kind_of
from skep_nodes.gov.applicant import Applicant
from skep_nodes.gov.registry import Facts, Registry
from skep_nodes.io.counters import Counters
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused

log = logging.getLogger("skep.nodes.frontdesk")

TEXT_CHARS_MAX: Final = 256
_SUBJECT: Final = ("display_name", "email", "phone", "company_name")


def is_handoff(payload: object) -> bool:
    return isinstance(payload, dict) and payload.get("type") == "frontdesk_handoff"


class Invalid(Exception):
    """The hand-off is not well formed: what is wrong."""


class Handoffs:
    """Answers hand-offs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.counters = Counters(("taken", "refused"), log)

    async def take(self, ilk: str, payload: dict[str, Any], sender: str) -> dict[str, Any]:
        """The result object of one hand-off for `ilk`."""
        self.counters["taken"] += 1
        try:
            subject = _subject(payload, sender)
            facts = await self._registry.who(ilk)
            return await self._complete(facts, payload, subject)
        except Invalid as error:
            result = _error("INVALID_REQUEST", str(error))
        except IdentityAway as away:
            result = _error("IDENTITY_UNAVAILABLE", str(away))
        except IdentityRefused as refused:
            result = _error("REGISTER_FAILED", str(refused), refused.code)
        self.counters["refused"] += 1
        return result

    async def _complete(self, facts: Facts, payload: dict[str, Any], subject: dict[str, str]) -> dict[str, Any]:
        if payload.get("tenant_id") not in (None, "", facts.tenant):
            raise Invalid("tenant_id is not the tenant of this interlocutor's channel")
        if facts.complete:
            return _ok("ALREADY_COMPLETE", facts, facts.ilk)
        missing = [name for name in ("display_name", "email") if not subject.get(name)]
        if missing:
            return _result("needs_input", "MISSING_REQUIRED_FIELDS", "Some data is missing.", missing_fields=missing)
        applicant = Applicant(facts.ilk, facts.tenant, name=subject["display_name"], email=subject["email"])
        more = {name: subject[name] for name in ("phone", "company_name") if subject.get(name)}
        await self._registry.register(applicant, **more)
        return _ok("REGISTERED", facts, facts.ilk)


def _subject(payload: dict[str, Any], sender: str) -> dict[str, str]:
    """The subject's texts. Raises Invalid."""
    if kind_of(sender) != "IO":
        raise Invalid("only channels hand interlocutors off")
    if payload.get("schema_version") != 1 or payload.get("operation") != "complete_registration":
        raise Invalid("schema_version must be 1, operation complete_registration")
    subject = payload.get("subject")
    if not isinstance(subject, dict):
        raise Invalid("subject must be an object")
    found = {name: subject.get(name) or "" for name in _SUBJECT}
    for name, value in found.items():
        if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX:
            raise Invalid(f"subject.{name} must be text of at most {TEXT_CHARS_MAX} characters")
    return {name: value.strip() for name, value in found.items()}


def _ok(code: str, facts: Facts, ilk: str) -> dict[str, Any]:
    known = {"ilk_id": ilk, "tenant_id": facts.tenant, "registration_status": "complete"}
    return _result("ok", code, "The interlocutor is registered.", **known)


def _error(code: str, detail: str, error_code: str = "") -> dict[str, Any]:
    return _result("error", code, "Not registered.", error_code=error_code or code, error_detail=detail[:500])


def _result(status: str, code: str, said: str, **more: Any) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "missing_fields": [], "ilk_id": None, "tenant_id": None, "registration_status": None, "error_code": None,
        "error_detail": None,
    }  # fmt: skip
    return {"type": "frontdesk_result", "status": status, "result_code": code, "human_message": said, **shape, **more}
