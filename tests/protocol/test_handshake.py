"""The handshake: every state by every event, both ends joined, and what a stranger may not do."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.strategies import cut
from skep.protocol import system
from skep.protocol.codes import CloseReason, ErrorCode
from skep.protocol.errors import LocalProtocolError
from skep.protocol.handshake import NATIVE, Announced, ClientHandshake, Hello, Refused, ServerHandshake
from skep.protocol.handshake_states import (
    CLIENT_TABLE,
    MISUSE,
    SERVER_TABLE,
    ClientEvent,
    ClientState,
    ServerEvent,
    ServerState,
)
from skep.protocol.json_framing import decode_body
from skep.protocol.limits import FRAME_BYTES_MAX, HELLO_BYTES_MAX
from skep.protocol.message import format_uuid

NODE = b"n" * 16
ROUTER = b"r" * 16


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def hello_body(payload: dict[str, Any] | None = None, **routing: Any) -> bytes:
    facts = {"uuid": format_uuid(NODE), "name": "AI.echo", "version": "1.0", **(payload or {})}
    return orjson.dumps(
        {
            "routing": {"src": format_uuid(NODE), "dst": None, "ttl": 1, "trace_id": "t", **routing},
            "meta": {"type": "system", "msg": "HELLO"},
            "payload": facts,
        }
    )


OTHER = hello_body().replace(b'"HELLO"', b'"ECHO"')
SERVER_BYTES = {
    ServerEvent.HELLO: framed(hello_body()),
    ServerEvent.OTHER: framed(OTHER),
    ServerEvent.MALFORMED: framed(b"{}"),
    ServerEvent.NAMELESS: framed(hello_body({"name": "sy.x"})),
    ServerEvent.OVERSIZE: (HELLO_BYTES_MAX + 1).to_bytes(4, "big"),
}


def server_in(state: ServerState) -> ServerHandshake:
    server = ServerHandshake("hive", ROUTER)
    if state is ServerState.REFUSED:
        server.refuse(CloseReason.UID_NOT_GRANTED, "not you")
    elif state is not ServerState.AWAITING:
        server.receive_data(SERVER_BYTES[ServerEvent.HELLO])
    if state is ServerState.REGISTERED:
        server.accept(vpn_id=0, router_name="RT.main@hive")
    server.data_to_send()
    assert server.state is state
    return server


def apply_server(server: ServerHandshake, event: ServerEvent) -> list[Any]:
    if event is ServerEvent.ACCEPT:
        server.accept(vpn_id=0, router_name="RT.main@hive")
        return []
    if event is ServerEvent.REFUSE:
        return list(server.refuse(CloseReason.NAME_TAKEN, "taken"))
    if event is ServerEvent.TIMEOUT:
        return list(server.handle_timeout())
    return list(server.receive_eof())


@pytest.mark.parametrize("state", ServerState)
@pytest.mark.parametrize("event", ServerEvent)
def test_every_cell_of_the_server(state: ServerState, event: ServerEvent) -> None:
    cell = SERVER_TABLE[state, event]
    server = server_in(state)
    if event in SERVER_BYTES and state is not ServerState.AWAITING:
        check_bytes_in_other_states(server, state, event)
        return
    if cell == MISUSE:
        with pytest.raises(LocalProtocolError) as caught:
            apply_server(server, event)
        assert caught.value.code is ErrorCode.HANDSHAKE_STATE
        assert server.state is state
        return
    events = (
        server.receive_data(SERVER_BYTES[event]) if event in SERVER_BYTES else apply_server(server, event)
    )
    after, reason = cell
    assert server.state is after
    check_told(server, state, events, CloseReason.NAME_TAKEN if event is ServerEvent.REFUSE else reason)


def check_bytes_in_other_states(server: ServerHandshake, state: ServerState, event: ServerEvent) -> None:
    """Bytes are read as frames only while HELLO is awaited. Before the answer they are kept up to a limit,
    afterwards they belong to the link, and once refused they are not even kept."""
    data = SERVER_BYTES[event]
    if state is ServerState.DECIDING and event is ServerEvent.OVERSIZE:
        assert server.receive_data(bytes(HELLO_BYTES_MAX)) == []
        (refused,) = server.receive_data(b"x")
        assert isinstance(refused, Refused)
        assert refused.reason is CloseReason.HELLO_TOO_LARGE
        return
    assert server.receive_data(data) == []
    assert server.state is state
    assert server.take_leftover() == (b"" if state is ServerState.REFUSED else data)


def check_told(
    server: ServerHandshake, before: ServerState, events: list[Any], reason: CloseReason | None
) -> None:
    sent = server.data_to_send()
    if server.state is not ServerState.REFUSED or before is ServerState.REFUSED:
        assert not any(isinstance(event, Refused) for event in events)
        return
    (refused,) = events
    assert refused.reason is reason
    assert refused.hint
    if reason is CloseReason.PEER_CLOSED:
        assert sent == b""
        return
    closing = decode_body(sent[4:])
    assert (closing.verb, closing.payload["code"]) == ("CLOSING", reason.name)
    assert set(closing.payload) == {"code", "reason", "hint"}


CLIENT_BYTES = {
    ClientEvent.ANNOUNCE: system.system_frame(
        "ANNOUNCE",
        system.announce(NODE, "AI.echo@hive", 0, "RT.main@hive"),
        source=ROUTER,
        destination=NODE,
        ttl=1,
        trace_id="t",
    ),
    ClientEvent.CLOSING: system.closing_frame(CloseReason.NAME_TAKEN, "taken", source=ROUTER),
    ClientEvent.OTHER: framed(OTHER),
    ClientEvent.MALFORMED: framed(b"{}"),
    ClientEvent.OVERSIZE: (HELLO_BYTES_MAX + 1).to_bytes(4, "big"),
}


def client_in(state: ClientState) -> ClientHandshake:
    client = ClientHandshake(NODE, "AI.echo", "1.0", trace_id="t")
    if state is ClientState.REFUSED:
        client.receive_eof()
    elif state is not ClientState.START:
        client.start()
    if state is ClientState.REGISTERED:
        client.receive_data(CLIENT_BYTES[ClientEvent.ANNOUNCE])
    client.data_to_send()
    assert client.state is state
    return client


def apply_client(client: ClientHandshake, event: ClientEvent) -> list[Any]:
    if event is ClientEvent.OPEN:
        client.start()
        return []
    if event is ClientEvent.TIMEOUT:
        return list(client.handle_timeout())
    if event is ClientEvent.EOF:
        return list(client.receive_eof())
    return list(client.receive_data(CLIENT_BYTES[event]))


@pytest.mark.parametrize("state", ClientState)
@pytest.mark.parametrize("event", ClientEvent)
def test_every_cell_of_the_client(state: ClientState, event: ClientEvent) -> None:
    cell = CLIENT_TABLE[state, event]
    client = client_in(state)
    if state is ClientState.REGISTERED and event in CLIENT_BYTES:
        assert client.receive_data(CLIENT_BYTES[event]) == []
        assert client.take_leftover() == CLIENT_BYTES[event]
        return
    if cell == MISUSE:
        with pytest.raises(LocalProtocolError):
            apply_client(client, event)
        assert client.state is state
        return
    events = apply_client(client, event)
    after, reason = cell
    assert client.state is after
    if after is ClientState.REFUSED and state is not ClientState.REFUSED:
        (refused,) = events
        assert refused.reason is (CloseReason.NAME_TAKEN if event is ClientEvent.CLOSING else reason)


def test_the_tables_are_total() -> None:
    assert set(SERVER_TABLE) == {(state, event) for state in ServerState for event in ServerEvent}
    assert set(CLIENT_TABLE) == {(state, event) for state in ClientState for event in ClientEvent}


@given(st.lists(st.integers(0, 500), max_size=12), st.binary(max_size=40), st.booleans())
def test_both_ends_agree_in_any_chunks(points: list[int], more: bytes, native: bool) -> None:
    client = ClientHandshake(
        NODE, "AI.echo", "1.0", trace_id="t", framings=(NATIVE,) if native else (), ticket="k"
    )
    server = ServerHandshake("hive", ROUTER)
    client.start()
    events = [
        event for piece in cut(client.data_to_send() + more, points) for event in server.receive_data(piece)
    ]
    framings = (NATIVE,) if native else ()
    assert events == [Hello(NODE, "AI.echo@hive", "1.0", framings, FRAME_BYTES_MAX, "k", "t")]
    framing = NATIVE if native else ""
    server.accept(
        vpn_id=7, router_name="RT.main@hive", framing=framing, frame_bytes_max=65536, router_epoch=3
    )
    answers = [
        event for piece in cut(server.data_to_send() + more, points) for event in client.receive_data(piece)
    ]
    expected = Announced(
        "AI.echo@hive",
        7,
        ROUTER,
        "RT.main@hive",
        framing,
        65536 if native else FRAME_BYTES_MAX,
        3 if native else 0,
    )
    assert answers == [expected]
    assert server.take_leftover() == client.take_leftover() == more


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (hello_body(src=format_uuid(ROUTER)), CloseReason.HELLO_INVALID),
        (hello_body({"uuid": format_uuid(NODE).upper()}), CloseReason.HELLO_INVALID),
        (hello_body({"uuid": None}), CloseReason.HELLO_INVALID),
        (hello_body({"uuid": format_uuid(bytes(16))}, src=format_uuid(bytes(16))), CloseReason.HELLO_INVALID),
        (hello_body(dst="AI.x@hive"), CloseReason.HELLO_INVALID),
        (hello_body({"version": 1}), CloseReason.HELLO_INVALID),
        (hello_body({"version": None}), CloseReason.HELLO_INVALID),
        (hello_body({"framing": "native/1"}), CloseReason.HELLO_INVALID),
        (hello_body({"framing": [1]}), CloseReason.HELLO_INVALID),
        (hello_body({"framing": ["x"] * 9}), CloseReason.HELLO_INVALID),
        (hello_body({"frame_bytes_max": 100}), CloseReason.HELLO_INVALID),
        (hello_body({"frame_bytes_max": "x"}), CloseReason.HELLO_INVALID),
        (hello_body({"ticket": "x" * 1025}), CloseReason.HELLO_INVALID),
        (hello_body({"name": "x" * 1500}), CloseReason.HELLO_INVALID),
        (hello_body({"name": "SY\u2024x"}), CloseReason.NAME_INVALID),
        (hello_body({"name": "AI"}), CloseReason.NAME_INVALID),
        (hello_body({"name": "AI.x@a@b"}), CloseReason.NAME_INVALID),
        (hello_body().replace(b'"name"', b'"uuid"'), CloseReason.HELLO_INVALID),
        (b"[" * 100, CloseReason.HELLO_INVALID),
        (b"\xff" * 10, CloseReason.HELLO_INVALID),
        (b"", CloseReason.HELLO_INVALID),
        (hello_body().split(b',"payload"')[0] + b',"payload":[]}', CloseReason.HELLO_INVALID),
        (OTHER, CloseReason.HELLO_EXPECTED),
    ],
)
def test_hellos_that_are_refused(body: bytes, reason: CloseReason) -> None:
    (refused,) = ServerHandshake("hive", ROUTER).receive_data(framed(body))
    assert isinstance(refused, Refused)
    assert refused.reason is reason


@pytest.mark.goal("G11")
def test_a_hello_of_exactly_the_limit_is_read_and_one_byte_more_refused_unread() -> None:
    room = HELLO_BYTES_MAX - len(hello_body({"x": ""}))
    body = hello_body({"x": "y" * room})
    assert len(body) == HELLO_BYTES_MAX
    assert isinstance(ServerHandshake("hive", ROUTER).receive_data(framed(body))[0], Hello)
    server = ServerHandshake("hive", ROUTER)
    (refused,) = server.receive_data((HELLO_BYTES_MAX + 1).to_bytes(4, "big"))
    assert isinstance(refused, Refused)
    assert refused.reason is CloseReason.HELLO_TOO_LARGE
    assert server.buffered_bytes == 0


@pytest.mark.goal("G11")
def test_a_stranger_that_drips_holds_no_more_than_the_limit() -> None:
    server = ServerHandshake("hive", ROUTER)
    server.receive_data(HELLO_BYTES_MAX.to_bytes(4, "big"))
    for _ in range(HELLO_BYTES_MAX - 1):
        assert server.receive_data(b" ") == []
    assert server.buffered_bytes <= HELLO_BYTES_MAX + 4
    (refused,) = server.handle_timeout()
    assert isinstance(refused, Refused)
    assert refused.reason is CloseReason.HELLO_TIMEOUT
    assert server.buffered_bytes == 0
    assert server.receive_data(b"x" * 10_000) == []
    assert server.buffered_bytes == 0


def test_a_framing_that_was_not_offered_is_not_announced() -> None:
    server = server_in(ServerState.DECIDING)
    with pytest.raises(LocalProtocolError):
        server.accept(vpn_id=0, router_name="RT.main@hive", framing=NATIVE)
    assert server.state is ServerState.DECIDING


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"trace_id":"t"', b'"trace_id":"u"'),
        (format_uuid(NODE).encode(), format_uuid(ROUTER).encode()),
        (b'"registered"', b'"pending"'),
        (b'"AI.echo@hive"', b'"AI.echo"'),
        (b'"vpn_id":0', b'"vpn_id":-1'),
        (b'"vpn_id":0', b'"vpn_id":0,"framing":"native/9"'),
    ],
)
def test_announces_that_a_client_does_not_believe(old: bytes, new: bytes) -> None:
    body = CLIENT_BYTES[ClientEvent.ANNOUNCE][4:].replace(old, new)
    (refused,) = client_in(ClientState.WAITING).receive_data(framed(body))
    assert isinstance(refused, Refused)
    assert refused.reason is CloseReason.HANDSHAKE_UNEXPECTED


def test_a_closing_code_of_a_later_version_is_understood() -> None:
    body = CLIENT_BYTES[ClientEvent.CLOSING][4:].replace(b"NAME_TAKEN", b"MOON_PHASE")
    (refused,) = client_in(ClientState.WAITING).receive_data(framed(body))
    assert isinstance(refused, Refused)
    assert refused.reason is CloseReason.INTERNAL
    assert "MOON_PHASE" in refused.detail
