"""The handshake of both ends, as state tables.

A connection is born a stranger. Until HELLO is whole, the router holds at most HELLO_BYTES_MAX of it, parses
one JSON body and does nothing else: no policy, no look-up of names. HELLO is then decided by the router
(`accept` or `refuse`), and its answer is the last thing said in the handshake; bytes that came behind HELLO
are handed on unread (`take_leftover`), because they may belong to the other framing.

The tables are in `handshake_states`. Time is an event too; whoever owns the clock says when it is over.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from skep.protocol import system
from skep.protocol.codes import CloseReason, ErrorCode
from skep.protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from skep.protocol.handshake_states import (
    CLIENT_TABLE,
    SERVER_TABLE,
    ClientEvent,
    ClientState,
    ServerEvent,
    ServerState,
)
from skep.protocol.json_framing import LENGTH_BYTES, decode_body
from skep.protocol.kinds import MessageClass
from skep.protocol.limits import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    NAME_BYTES_MAX,
    SHORT_TEXT_BYTES_MAX,
    U32_MAX,
    U64_MAX,
)
from skep.protocol.message import Message, format_uuid, parse_uuid
from skep.protocol.names import is_name, parse_name
from skep.protocol.strict_json import check_text

NATIVE: Final = "native/1"
FRAMINGS_MAX: Final = 8
TICKET_BYTES_MAX: Final = 1024


class Hello(NamedTuple):
    """A HELLO that can be read. `name` is full; nothing in it is believed yet."""

    uuid: bytes
    name: str
    version: str
    framings: tuple[str, ...]
    frame_bytes_max: int
    ticket: str
    trace_id: str


class Announced(NamedTuple):
    """The router's answer. `framing` is empty for JSON."""

    name: str
    vpn_id: int
    router_uuid: bytes
    router_name: str
    framing: str
    frame_bytes_max: int
    router_epoch: int


class Refused(NamedTuple):
    """The handshake has failed. `hint` says what to do about it."""

    reason: CloseReason
    detail: str
    hint: str


class _Buffer:
    """The bytes of a handshake: in, out, and what is left over."""

    def __init__(self) -> None:
        self.received = b""
        self.to_send = b""

    def take_body(self) -> bytes | None:
        """The first body once it is whole. Raises FRAME_TOO_LARGE from its length word."""
        if len(self.received) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self.received[:LENGTH_BYTES], "big")
        if length > HELLO_BYTES_MAX:
            raise RemoteProtocolError(ErrorCode.FRAME_TOO_LARGE, "first frame", HELLO_BYTES_MAX, length)
        if len(self.received) < LENGTH_BYTES + length:
            return None
        body = self.received[LENGTH_BYTES : LENGTH_BYTES + length]
        self.received = self.received[LENGTH_BYTES + length :]
        return body

    def take_received(self) -> bytes:
        received, self.received = self.received, b""
        return received

    def take_to_send(self) -> bytes:
        to_send, self.to_send = self.to_send, b""
        return to_send


class ServerHandshake:
    """The router's end, for one connection."""

    def __init__(self, hive: str, router_uuid: bytes) -> None:
        self.state = ServerState.AWAITING
        self.hello: Hello | None = None
        self._hive = hive
        self._router_uuid = router_uuid
        self._buffer = _Buffer()

    def receive_data(self, data: bytes) -> list[Hello | Refused]:
        """Hello once it is whole, or Refused. After the decision, bytes are kept for `take_leftover`."""
        if self.state is ServerState.REFUSED:
            return []
        self._buffer.received += data
        if self.state is ServerState.DECIDING and len(self._buffer.received) > HELLO_BYTES_MAX:
            return self._step(ServerEvent.OVERSIZE, "more bytes before ANNOUNCE than a stranger may send")
        return self._read() if self.state is ServerState.AWAITING else []

    def _read(self) -> list[Hello | Refused]:
        try:
            body = self._buffer.take_body()
        except RemoteProtocolError as problem:
            return self._step(ServerEvent.OVERSIZE, str(problem))
        if body is None:
            return []
        try:
            message = decode_body(body)
            if message.message_class is not MessageClass.SYSTEM or message.verb != system.HELLO:
                return self._step(ServerEvent.OTHER, f"{message.type} {message.verb}".rstrip())
            self.hello = read_hello(message, self._hive)
        except ProtocolError as problem:
            nameless = problem.code is ErrorCode.NAME_INVALID
            return self._step(ServerEvent.NAMELESS if nameless else ServerEvent.MALFORMED, str(problem))
        self._step(ServerEvent.HELLO)
        return [self.hello]

    def accept(
        self,
        *,
        vpn_id: int,
        router_name: str,
        framing: str = "",
        frame_bytes_max: int = 0,
        router_epoch: int = 0,
    ) -> None:
        """Queue ANNOUNCE. With a framing, everything after it is in that framing."""
        if framing and (self.hello is None or framing not in self.hello.framings):
            raise LocalProtocolError(ErrorCode.HANDSHAKE_STATE, f"{framing} was not offered")
        self._step(ServerEvent.ACCEPT)
        assert self.hello is not None
        payload = system.announce(
            self.hello.uuid,
            self.hello.name,
            vpn_id,
            router_name,
            framing=framing,
            frame_bytes_max=frame_bytes_max or FRAME_BYTES_MAX,
            router_epoch=router_epoch,
        )
        self._buffer.to_send += system.system_frame(
            system.ANNOUNCE,
            payload,
            source=self._router_uuid,
            destination=self.hello.uuid,
            ttl=1,
            trace_id=self.hello.trace_id,
        )

    def refuse(self, reason: CloseReason, detail: str) -> list[Hello | Refused]:
        """Queue CLOSING with this reason; also before HELLO, for one who may not connect at all."""
        return self._step(ServerEvent.REFUSE, detail, reason)

    def receive_eof(self) -> list[Hello | Refused]:
        return self._step(ServerEvent.EOF, "the peer closed the connection during the handshake")

    def handle_timeout(self) -> list[Hello | Refused]:
        """HELLO_TIMEOUT_S have passed since accept."""
        return self._step(ServerEvent.TIMEOUT, f"{len(self._buffer.received)} bytes of HELLO came in time")

    def data_to_send(self) -> bytes:
        return self._buffer.take_to_send()

    def take_leftover(self) -> bytes:
        """Bytes behind the handshake, for the framing that was agreed."""
        return self._buffer.take_received()

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer.received)

    def _step(
        self, event: ServerEvent, detail: str = "", given: CloseReason | None = None
    ) -> list[Hello | Refused]:
        before = self.state
        cell = SERVER_TABLE[before, event]
        if isinstance(cell, str):
            raise LocalProtocolError(ErrorCode.HANDSHAKE_STATE, f"{event.name} in state {before.name}")
        self.state, ended = cell
        reason = ended or given
        if self.state is not ServerState.REFUSED or before is ServerState.REFUSED or reason is None:
            return []
        self._buffer.received = b""
        if reason is not CloseReason.PEER_CLOSED:
            self._buffer.to_send += self._closing(reason, detail)
        return [Refused(reason, detail, system.HINTS[reason])]

    def _closing(self, reason: CloseReason, detail: str) -> bytes:
        uuid, trace_id = (None, "") if self.hello is None else (self.hello.uuid, self.hello.trace_id)
        return system.closing_frame(
            reason, detail[:512], source=self._router_uuid, destination=uuid, trace_id=trace_id
        )


def read_hello(message: Message, hive: str) -> Hello:
    """The facts of a HELLO, each checked. Raises ProtocolError."""
    payload = _payload(message)
    if message.destination is not None:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "HELLO goes to null")
    uuid = parse_uuid(_text(payload, "uuid", 36))
    if uuid is None or not any(uuid):
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "payload.uuid is not a hyphenated lower-case uuid")
    if uuid != message.source:
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, "routing.src and payload.uuid differ")
    limit = _number(payload, "frame_bytes_max", FRAME_BYTES_MAX, U32_MAX)
    if limit < HELLO_BYTES_MAX:
        raise RemoteProtocolError(
            ErrorCode.FIELD_RANGE, "frame_bytes_max is too small", HELLO_BYTES_MAX, limit
        )
    return Hello(
        uuid=uuid,
        name=parse_name(_text(payload, "name", 4 * NAME_BYTES_MAX), hive),
        version=_text(payload, "version", SHORT_TEXT_BYTES_MAX),
        framings=_framings(payload.get("framing")),
        frame_bytes_max=min(limit, FRAME_BYTES_MAX),
        ticket=_text(payload, "ticket", TICKET_BYTES_MAX, ""),
        trace_id=message.trace_id,
    )


def _payload(message: Message) -> dict[str, Any]:
    if not isinstance(message.payload, dict):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, f"payload of {message.verb} must be an object")
    return message.payload


def _text(payload: dict[str, Any], name: str, limit: int, default: str | None = None) -> str:
    value = payload.get(name, default)
    if value is None:
        raise RemoteProtocolError(ErrorCode.FIELD_MISSING, f"payload.{name} is required")
    if not isinstance(value, str):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, f"payload.{name} must be a string")
    if len(value.encode()) > limit:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, f"payload.{name}", limit, len(value.encode()))
    check_text(f"payload.{name}", value)
    return value


def _number(payload: dict[str, Any], name: str, default: int, limit: int) -> int:
    value = payload.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise RemoteProtocolError(
            ErrorCode.FIELD_RANGE, f"payload.{name} must be an integer from 0 to {limit}"
        )
    return value


def _framings(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or len(value) > FRAMINGS_MAX
        or not all(isinstance(item, str) for item in value)
    ):
        raise RemoteProtocolError(
            ErrorCode.FIELD_TYPE, f"payload.framing is a list of at most {FRAMINGS_MAX} texts"
        )
    return tuple(value)


class ClientHandshake:
    """A node's end. `name` may be a base name: the router's ANNOUNCE says the full one."""

    def __init__(
        self,
        uuid: bytes,
        name: str,
        version: str,
        *,
        framings: tuple[str, ...] = (NATIVE,),
        frame_bytes_max: int = FRAME_BYTES_MAX,
        ticket: str = "",
        trace_id: str = "",
    ) -> None:
        self.state = ClientState.START
        self.announced: Announced | None = None
        self._uuid = uuid
        self._framings = framings
        self._trace_id = trace_id
        self._buffer = _Buffer()
        self._hello = system.hello(
            uuid,
            name,
            version,
            framings=framings,
            frame_bytes_max=frame_bytes_max if framings else 0,
            ticket=ticket,
        )

    def start(self) -> None:
        """Queue HELLO."""
        self._step(ClientEvent.OPEN)
        self._buffer.to_send += system.system_frame(
            system.HELLO, self._hello, source=self._uuid, destination=None, ttl=1, trace_id=self._trace_id
        )

    def receive_data(self, data: bytes) -> list[Announced | Refused]:
        """Announced or Refused, once. Bytes behind the answer are kept for `take_leftover`."""
        if self.state is ClientState.REFUSED:
            return []
        self._buffer.received += data
        return [] if self.state is ClientState.REGISTERED else self._read()

    def _read(self) -> list[Announced | Refused]:
        try:
            body = self._buffer.take_body()
        except RemoteProtocolError as problem:
            return self._step(ClientEvent.OVERSIZE, str(problem))
        if body is None:
            return []
        try:
            return self._answer(decode_body(body))
        except ProtocolError as problem:
            return self._step(ClientEvent.MALFORMED, str(problem))

    def _answer(self, message: Message) -> list[Announced | Refused]:
        system_verb = message.verb if message.message_class is MessageClass.SYSTEM else ""
        if system_verb == system.CLOSING:
            reason, detail = read_closing(message)
            return self._step(ClientEvent.CLOSING, detail, reason)
        if system_verb != system.ANNOUNCE:
            return self._step(ClientEvent.OTHER, f"{message.type} {message.verb}".rstrip())
        announced = self._read_announce(message)
        events = self._step(ClientEvent.ANNOUNCE)
        if events:
            return events
        self.announced = announced
        return [announced]

    def _read_announce(self, message: Message) -> Announced:
        payload = _payload(message)
        if message.trace_id != self._trace_id or payload.get("uuid") != format_uuid(self._uuid):
            raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "ANNOUNCE answers another HELLO")
        name = _text(payload, "name", NAME_BYTES_MAX)
        if not is_name(name) or payload.get("status") != "registered":
            raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "ANNOUNCE has no full name or another status")
        framing = _text(payload, "framing", SHORT_TEXT_BYTES_MAX, "")
        if framing and framing not in self._framings:
            raise RemoteProtocolError(ErrorCode.FIELD_RANGE, f"framing {framing!r} was not offered")
        return Announced(
            name=name,
            vpn_id=_number(payload, "vpn_id", 0, U32_MAX),
            router_uuid=message.source,
            router_name=_text(payload, "router_name", NAME_BYTES_MAX, ""),
            framing=framing,
            frame_bytes_max=min(
                _number(payload, "frame_bytes_max", FRAME_BYTES_MAX, U32_MAX), FRAME_BYTES_MAX
            ),
            router_epoch=_number(payload, "router_epoch", 0, U64_MAX),
        )

    def receive_eof(self) -> list[Announced | Refused]:
        return self._step(ClientEvent.EOF, "the router closed the connection during the handshake")

    def handle_timeout(self) -> list[Announced | Refused]:
        return self._step(ClientEvent.TIMEOUT, "the router has not answered HELLO")

    def data_to_send(self) -> bytes:
        return self._buffer.take_to_send()

    def take_leftover(self) -> bytes:
        return self._buffer.take_received()

    def _step(
        self, event: ClientEvent, detail: str = "", given: CloseReason | None = None
    ) -> list[Announced | Refused]:
        before = self.state
        cell = CLIENT_TABLE[before, event]
        if isinstance(cell, str):
            raise LocalProtocolError(ErrorCode.HANDSHAKE_STATE, f"{event.name} in state {before.name}")
        self.state, ended = cell
        reason = ended or given
        if self.state is not ClientState.REFUSED or before is ClientState.REFUSED or reason is None:
            return []
        self._buffer.received = b""
        return [Refused(reason, detail, system.HINTS[reason])]


def read_closing(message: Message) -> tuple[CloseReason, str]:
    """Why a JSON peer closes the connection; a code of a later version is INTERNAL, with its name in the text."""
    payload = _payload(message)
    code, detail = _text(payload, "code", SHORT_TEXT_BYTES_MAX), _text(payload, "reason", HELLO_BYTES_MAX, "")
    known = CloseReason.__members__.get(code)
    return (CloseReason.INTERNAL, f"{code}: {detail}") if known is None else (known, detail)
