"""A subject whose data came with the request: handed to the front desk before its first message goes on.

A client that knows its users' names and addresses sends them along (`subject.display_name`, `subject.email`), and
nobody is asked for them again. The front desk registers the interlocutor or says why not (`skep_nodes.gov.handoff`);
who is registered already is left as they are. Whom it has answered for is remembered, so this costs one question a
person.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from skep.errors import DeliveryError, LinkClosed, RemoteError, RequestTimeout
from skep_nodes.io.hive_port import HivePort

FRONT_DESK: Final = "SY.frontdesk.gov"
ANSWER_S: Final = 10.0  # it may have to ask SY.identity several times
KNOWN_MAX: Final = 4096
_STATUS: Final = {"MISSING_REQUIRED_FIELDS": 422, "INVALID_REQUEST": 422, "IDENTITY_UNAVAILABLE": 503}


class NotIntroduced(Exception):
    """The front desk did not register the subject: an HTTP status and a code of the API."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Introductions:
    """Whom the front desk has answered for."""

    def __init__(self, hive: HivePort) -> None:
        self._hive = hive
        self._known: OrderedDict[str, None] = OrderedDict()

    async def introduce(self, ilk: str, subject: Mapping[str, str]) -> None:
        """Raises NotIntroduced. A subject without data is the front desk's to ask, in conversation."""
        if not subject.get("display_name") or not subject.get("email") or ilk in self._known:
            return
        result = await self._ask(ilk, subject)
        code = str(result.get("result_code") or "")
        if result.get("status") != "ok":
            status, name = _STATUS.get(code, 502), code.lower() or "invalid_frontdesk_response"
            raise NotIntroduced(status, name, str(result.get("error_detail") or result.get("human_message") or ""))
        self._known[ilk] = None
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    async def _ask(self, ilk: str, subject: Mapping[str, str]) -> dict[str, Any]:
        handed = {
            "type": "frontdesk_handoff", "schema_version": 1, "operation": "complete_registration",
            "subject": dict(subject),
        }  # fmt: skip
        try:
            reply = await self._hive.request(FRONT_DESK, handed, timeout=ANSWER_S, src_ilk=ilk)
        except RequestTimeout:
            raise NotIntroduced(504, "frontdesk_timeout", "the front desk gave no answer in time") from None
        except (DeliveryError, LinkClosed, RemoteError) as error:
            raise NotIntroduced(503, "frontdesk_unavailable", f"the front desk cannot be asked: {error}") from error
        return reply.payload if isinstance(reply.payload, dict) else {}
