"""A node in JSON framing on a blocking socket: what the harness itself uses to watch a hive from outside."""

from __future__ import annotations

import json
import selectors
import socket
import struct
import uuid
from pathlib import Path
from typing import Any

LENGTH = struct.Struct(">I")


class PlainNode:
    """Registered when made. Raises ConnectionError with the router's answer when it is refused."""

    def __init__(self, path: Path, name: str, timeout: float = 5.0) -> None:
        self.uuid = str(uuid.uuid4())
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        hello = {"uuid": self.uuid, "name": name, "version": "1.0"}
        self._write({"type": "system", "msg": "HELLO"}, None, hello, ttl=1)
        answer = self.read()
        if answer is None or answer["meta"].get("msg") != "ANNOUNCE":
            raise ConnectionError(f"{name} was not registered: {answer}")

    def send(self, to: str, payload: object) -> None:
        self._write({"type": "user"}, to, payload)

    def _write(self, meta: dict[str, Any], to: str | None, payload: object, ttl: int = 16) -> None:
        routing = {"src": self.uuid, "dst": to, "ttl": ttl, "trace_id": str(uuid.uuid4())}
        body = json.dumps({"routing": routing, "meta": meta, "payload": payload}).encode()
        self.socket.sendall(LENGTH.pack(len(body)) + body)

    def read(self) -> dict[str, Any] | None:
        """The next frame; None when the connection ended."""
        head = self._exactly(LENGTH.size)
        body = self._exactly(LENGTH.unpack(head)[0]) if head else b""
        return json.loads(body) if body else None

    def _exactly(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self.socket.recv(size - len(parts))
            if not part:
                return b""
            parts += part
        return parts

    def close(self) -> None:
        self.socket.close()


def first_to_hear(nodes: list[PlainNode], within: float) -> PlainNode | None:
    """The node that has something to read; reads it away."""
    with selectors.DefaultSelector() as waiting:  # descriptors may be above 1023, where select() ends
        for node in nodes:
            waiting.register(node.socket, selectors.EVENT_READ, node)
        for key, _ in waiting.select(within):
            heard: PlainNode = key.data
            heard.read()
            return heard
    return None
