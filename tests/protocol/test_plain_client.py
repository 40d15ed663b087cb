"""The plain client against the production handshake and framing, over a Unix socket; e2e has the real router."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import plain_client
from protocol.plain_client import PlainClient
from skep.protocol.codes import CloseReason
from skep.protocol.handshake import Hello, ServerHandshake
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from support.wait import eventually

ROUTER = b"r" * 16


def serve(listener: socket.socket, log: list[str], refuse: bool) -> None:
    """A router of one connection: registers (or refuses), echoes user messages, stops at WITHDRAW."""
    connection, _ = listener.accept()
    with connection:
        handshake = ServerHandshake("hive", ROUTER)
        hello = None
        while hello is None:
            (hello,) = handshake.receive_data(connection.recv(65536)) or (None,)
        assert isinstance(hello, Hello)
        if refuse:
            handshake.refuse(CloseReason.NAME_NOT_GRANTED, "not granted")
            connection.sendall(handshake.data_to_send())
            return
        handshake.accept(vpn_id=0, router_name="RT.main@hive")
        connection.sendall(handshake.data_to_send())
        framer = JsonFramer()
        while True:
            for body in framer.receive_data(connection.recv(65536)):
                message = decode_body(body)
                log.append(message.verb or message.type)
                if message.verb == "WITHDRAW":
                    return
                message.destination, message.source = message.source, ROUTER
                connection.sendall(encode_body(message, source_name="RT.main@hive"))


@pytest.fixture
def served(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[str, list[str]]]:
    path = str(tmp_path_factory.mktemp("s") / "r")
    log: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener, log, getattr(request, "param", False)))
        thread.start()
        yield path, log
        thread.join(5)
        assert not thread.is_alive()


def test_it_connects_sends_receives_and_leaves(served: tuple[str, list[str]]) -> None:
    path, log = served
    client = PlainClient(path, "AI.plain")
    assert (client.name, client.router_name) == ("AI.plain@hive", "RT.main@hive")
    trace = client.send("AI.echo@hive", "user", {"type": "text", "content": "hi"})
    answer = client.receive()
    assert answer["payload"] == {"type": "text", "content": "hi"}
    assert answer["routing"]["trace_id"] == trace
    client.close()
    eventually(lambda: log == ["user", "WITHDRAW"])


@pytest.mark.parametrize("served", [True], indirect=True)
def test_it_is_told_why_it_may_not_connect(served: tuple[str, list[str]]) -> None:
    with pytest.raises(ConnectionError) as caught:
        PlainClient(served[0], "SY.admin")
    assert caught.value.args[0]["code"] == "NAME_NOT_GRANTED"


def test_it_is_short_and_independent() -> None:
    text = Path(plain_client.__file__).read_text()
    assert len(text.splitlines()) < 60
    assert "skep." not in text
