"""Thread bindings of the in-memory hive: SY.threads' answers without SY.threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from skep.flows import encode_thread
from skep.protocol.header import Selector


@dataclass(slots=True)
class Bindings:
    """Thread → handler's full name."""

    handlers: dict[bytes, str] = field(default_factory=dict)
    revision: int = 0

    def handler_of(self, selector: Selector) -> str | None:
        return self.handlers.get(selector.thread) if selector.thread else None

    def answer(self, verb: str, body: bytes) -> dict[str, Any]:
        asked = orjson.loads(body)
        thread = encode_thread(asked.get("thread_id"))[0]
        if verb == "THREAD_BIND":
            self.revision += 1
            self.handlers[thread] = asked["handler"]
        elif verb == "THREAD_UNBIND":
            self.revision += 1
            self.handlers.pop(thread, None)
        elif verb == "THREAD_GET":
            return {"status": "ok", "handler": self.handlers.get(thread), "revision": self.revision}
        else:
            return {"status": "error", "error_code": "UNKNOWN_VERB", "error_detail": verb}
        return {"status": "ok", "revision": self.revision}
