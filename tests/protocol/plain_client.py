"""A Skep client that owes nothing to this project: sockets, json, docs/wire.md. Written for reading."""

from __future__ import annotations

import json
import socket
import uuid


class PlainClient:
    """Speaks JSON framing, as a client of the upstream system does."""

    def __init__(self, path: str, name: str, timeout: float = 5.0) -> None:
        self.uuid = str(uuid.uuid4())
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        trace = self.send(
            None, "system", {"uuid": self.uuid, "name": name, "version": "1"}, msg="HELLO", ttl=1
        )
        answer = self.receive()
        if answer["meta"].get("msg") != "ANNOUNCE" or answer["routing"]["trace_id"] != trace:
            raise ConnectionError(answer["payload"])
        self.name = answer["payload"]["name"]
        self.router_name = answer["payload"]["router_name"]

    def send(
        self, dst: str | None, type_: str, payload: object, ttl: int = 16, trace: str = "", **meta: object
    ) -> str:
        """Send one message; its trace id."""
        trace = trace or str(uuid.uuid4())
        routing = {"src": self.uuid, "dst": dst, "ttl": ttl, "trace_id": trace}
        body = json.dumps({"routing": routing, "meta": {"type": type_, **meta}, "payload": payload}).encode()
        self.socket.sendall(len(body).to_bytes(4, "big") + body)
        return trace

    def receive(self) -> dict:
        """The next message; ConnectionError when the router has closed the connection."""
        return json.loads(self._exactly(int.from_bytes(self._exactly(4), "big")))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the router closed the connection")
            data += piece
        return data

    def close(self) -> None:
        """Say goodbye and go."""
        self.send(None, "system", {"uuid": self.uuid}, msg="WITHDRAW", ttl=1)
        self.socket.close()
