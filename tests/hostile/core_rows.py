"""Rows that need a clock, tickets or a router's end: asked of the core on the fake wire."""

from __future__ import annotations

from typing import Any

from router.wire import OWN_UID, SECOND, FakePort, Peer, Router
from skep.protocol.codes import CloseReason
from skep.protocol.handshake import Refused

STEP = SECOND // 4


def patience(pieces: list[bytes]) -> tuple[str, float]:
    """A stranger that says these pieces, one a second: (how it is ended, after how many seconds)."""
    router, port = Router(), FakePort()
    pending = router.core.greet(port, OWN_UID, 1, router.now)
    assert pending is not None
    began = router.now
    waiting = list(pieces)
    while port.closed is None:
        if waiting and (router.now - began) % SECOND == 0:
            router.core.introduce(pending, waiting.pop(0), router.now)
        router.advance(STEP)
        assert router.now - began < 60 * SECOND, "never ended"
    return CloseReason(port.closed).name, (router.now - began) / SECOND


def hello_outcome(router: Router, name: str, uid: int = OWN_UID, **hello: Any) -> str:
    """The code with which a HELLO is refused, or "registered"."""
    answer = Peer(router, name, uid=uid, **hello).connect()
    return answer.reason.name if isinstance(answer, Refused) else "registered"
