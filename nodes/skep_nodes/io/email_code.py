"""EMAIL_CODE_SEND: the front desk asks that a code be sent to an address, so that somebody can prove to own it.

Only SY.frontdesk.gov may ask, as the router's node table proves it: a letter with any text to any address is what a
spammer wants. What is sent is a sentence of this module around a code of letters and digits, nothing anybody wrote.
How often is bounded for each address and for all. `ok` means that the letter is in the synced outbox; it leaves there
sent, or ten minutes later, when the code is worth nothing any more. Whether a code is right, the front desk decides.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from skep.protocol.names import base_of
from skep_nodes.io.counters import Counters
from skep_nodes.io.email_post import Post, wall_ms
from skep_nodes.io.email_rates import Rate
from skep_nodes.io.email_settings import EmailSettings, Mailbox
from skep_nodes.io.mail_head import is_address
from skep_nodes.io.mail_write import Outgoing, compose, new_message_id
from skep_nodes.sy.standing import Sender, Standing

log = logging.getLogger("skep.nodes.email")

VERB: Final = "EMAIL_CODE_SEND"
ASKER: Final = "SY.frontdesk.gov"
CODES_PER_ADDRESS: Final = 4  # an hour; the front desk itself sends three
CODES_MAX: Final = 200  # an hour, of all: a front desk that is talked into more stops here
HOUR_S: Final = 3600.0
KEEP_MS: Final = 600_000
FIELDS: Final = frozenset(("address", "code", "language", "tenant_id"))
COUNTERS: Final = ("sent", "forbidden", "refused", "over_rate")
_CODE = re.compile(r"[0-9A-Za-z]{4,12}")

SAYINGS: Final = {
    "en": (
        "Your verification code",
        "Your verification code is {code}.\n\nIt is valid for ten minutes. Write it back in the conversation in which"
        " you were asked for it.\nIf you did not ask for a code, somebody mistyped an address: there is nothing to do.",
    ),
    "es": (
        "Su código de verificación",
        "Su código de verificación es {code}.\n\nVale durante diez minutos. Escríbalo en la conversación en la que se"
        " lo pidieron.\nSi no pidió ningún código, alguien se equivocó de dirección: no tiene que hacer nada.",
    ),
}


class CodeDesk:
    """The verb, given who asks."""

    def __init__(
        self, settings: EmailSettings, post: Post, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.counters = Counters(COUNTERS, log)
        self._boxes, self._post, self._now = settings.mailboxes, post, now
        self._each = Rate(CODES_PER_ADDRESS, HOUR_S)
        self._all = Rate(CODES_MAX, HOUR_S)

    def handle(self, payload: object, sender: Sender) -> dict[str, Any]:
        """The answer to one request."""
        if sender.standing is not Standing.SYSTEM or base_of(sender.name) != ASKER:
            self.counters.trouble(
                "forbidden", "%s asked for a code; only %s may", sender.name or "somebody", ASKER
            )
            return _no("FORBIDDEN", f"only {ASKER} may ask for codes")
        asked: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {}
        wrong = _wrong(asked)
        if wrong:
            self.counters["refused"] += 1
            return _no("INVALID_REQUEST", wrong)
        return self._send(str(asked["address"]).lower(), asked)

    def _send(self, address: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        box = self._box(str(asked.get("tenant_id", "")))
        if box is None:
            self.counters["refused"] += 1
            return _no("MAILBOX_MISSING", "no mailbox writes for this tenant; add one to mailboxes")
        if not self._each.allows(address, self._now()) or not self._all.allows("", self._now()):
            self.counters.trouble("over_rate", "more codes were asked for than are sent in an hour")
            return _no("RATE_LIMITED", "this address, or all, had enough codes within the hour")
        subject, text = SAYINGS[str(asked.get("language", "en"))]
        message_id = new_message_id(box.address)
        words = text.format(code=asked["code"])
        letter = Outgoing(box.address, address, subject, words, message_id, sender_name=box.name)
        if not self._post.put(box.address, address, message_id, compose(letter, wall_ms()), KEEP_MS):
            return _no("OUTBOX_FULL", "too many letters wait; try again in a minute")
        self.counters["sent"] += 1
        return {"status": "ok", "message_id": message_id}

    def _box(self, tenant: str) -> Mailbox | None:
        """The tenant's own mailbox; else one that belongs to none."""
        return next((box for key in (tenant, "") for box in self._boxes if box.tenant_id == key), None)


def _wrong(asked: Mapping[str, Any]) -> str:
    """What is wrong with a request; empty when nothing is."""
    if set(asked) - FIELDS or not all(isinstance(value, str) for value in asked.values()):
        return f"members are {', '.join(sorted(FIELDS))}, all text"
    if not is_address(asked.get("address", "")):
        return "address must be one plain e-mail address"
    if _CODE.fullmatch(asked.get("code", "")) is None:
        return "code must be 4 to 12 letters and digits"
    if asked.get("language", "en") not in SAYINGS:
        return f"language must be one of {', '.join(sorted(SAYINGS))}"
    return ""


def _no(code: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error_code": code, "message": message}
