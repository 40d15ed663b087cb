"""The states, events and transitions of both ends of a handshake.

Each table is total: a cell for every state and every event, so that nothing a peer does is unforeseen. A cell
is the next state and, where it ends the handshake, the reason; None leaves the reason to whoever caused the
event. MISUSE cells are mistakes of the caller, not of the peer.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, TypeAlias

from skep.protocol.codes import CloseReason


class ServerState(Enum):
    AWAITING = auto()  # connected, no HELLO yet
    DECIDING = auto()  # HELLO read, the router has not answered
    REGISTERED = auto()
    REFUSED = auto()


class ServerEvent(Enum):
    HELLO = auto()
    OTHER = auto()  # a whole frame that is not HELLO
    MALFORMED = auto()  # a body that cannot be read, or a HELLO that contradicts itself
    NAMELESS = auto()  # a HELLO whose name breaks the rules
    OVERSIZE = auto()
    ACCEPT = auto()
    REFUSE = auto()
    TIMEOUT = auto()
    EOF = auto()


class ClientState(Enum):
    START = auto()
    WAITING = auto()  # HELLO sent
    REGISTERED = auto()
    REFUSED = auto()


class ClientEvent(Enum):
    OPEN = auto()
    ANNOUNCE = auto()
    CLOSING = auto()
    OTHER = auto()
    MALFORMED = auto()
    OVERSIZE = auto()
    TIMEOUT = auto()
    EOF = auto()


MISUSE: Final = "MISUSE"
ServerCell: TypeAlias = tuple[ServerState, CloseReason | None] | str
ClientCell: TypeAlias = tuple[ClientState, CloseReason | None] | str

_S, _SE, _C, _CE = ServerState, ServerEvent, ClientState, ClientEvent

SERVER_TABLE: Final[dict[tuple[ServerState, ServerEvent], ServerCell]] = {
    (_S.AWAITING, _SE.HELLO): (_S.DECIDING, None),
    (_S.AWAITING, _SE.OTHER): (_S.REFUSED, CloseReason.HELLO_EXPECTED),
    (_S.AWAITING, _SE.MALFORMED): (_S.REFUSED, CloseReason.HELLO_INVALID),
    (_S.AWAITING, _SE.NAMELESS): (_S.REFUSED, CloseReason.NAME_INVALID),
    (_S.AWAITING, _SE.OVERSIZE): (_S.REFUSED, CloseReason.HELLO_TOO_LARGE),
    (_S.AWAITING, _SE.ACCEPT): MISUSE,
    (_S.AWAITING, _SE.REFUSE): (_S.REFUSED, None),
    (_S.AWAITING, _SE.TIMEOUT): (_S.REFUSED, CloseReason.HELLO_TIMEOUT),
    (_S.AWAITING, _SE.EOF): (_S.REFUSED, CloseReason.PEER_CLOSED),
    # While deciding nothing is read, so only size, time, end and the decision itself can happen.
    (_S.DECIDING, _SE.HELLO): MISUSE,
    (_S.DECIDING, _SE.OTHER): MISUSE,
    (_S.DECIDING, _SE.MALFORMED): MISUSE,
    (_S.DECIDING, _SE.NAMELESS): MISUSE,
    (_S.DECIDING, _SE.OVERSIZE): (_S.REFUSED, CloseReason.HELLO_TOO_LARGE),
    (_S.DECIDING, _SE.ACCEPT): (_S.REGISTERED, None),
    (_S.DECIDING, _SE.REFUSE): (_S.REFUSED, None),
    (_S.DECIDING, _SE.TIMEOUT): (_S.REFUSED, CloseReason.HELLO_TIMEOUT),
    (_S.DECIDING, _SE.EOF): (_S.REFUSED, CloseReason.PEER_CLOSED),
    # Registered: what comes now belongs to the link. A second decision is a mistake.
    (_S.REGISTERED, _SE.HELLO): MISUSE,
    (_S.REGISTERED, _SE.OTHER): MISUSE,
    (_S.REGISTERED, _SE.MALFORMED): MISUSE,
    (_S.REGISTERED, _SE.NAMELESS): MISUSE,
    (_S.REGISTERED, _SE.OVERSIZE): MISUSE,
    (_S.REGISTERED, _SE.ACCEPT): MISUSE,
    (_S.REGISTERED, _SE.REFUSE): MISUSE,
    (_S.REGISTERED, _SE.TIMEOUT): (_S.REGISTERED, None),
    (_S.REGISTERED, _SE.EOF): (_S.REGISTERED, None),
    # Refused: the answer has been given, whatever else arrives is not read.
    (_S.REFUSED, _SE.HELLO): (_S.REFUSED, None),
    (_S.REFUSED, _SE.OTHER): (_S.REFUSED, None),
    (_S.REFUSED, _SE.MALFORMED): (_S.REFUSED, None),
    (_S.REFUSED, _SE.NAMELESS): (_S.REFUSED, None),
    (_S.REFUSED, _SE.OVERSIZE): (_S.REFUSED, None),
    (_S.REFUSED, _SE.ACCEPT): MISUSE,
    (_S.REFUSED, _SE.REFUSE): (_S.REFUSED, None),
    (_S.REFUSED, _SE.TIMEOUT): (_S.REFUSED, None),
    (_S.REFUSED, _SE.EOF): (_S.REFUSED, None),
}

CLIENT_TABLE: Final[dict[tuple[ClientState, ClientEvent], ClientCell]] = {
    # Before HELLO the router has nothing to say, except that it does not want us.
    (_C.START, _CE.OPEN): (_C.WAITING, None),
    (_C.START, _CE.ANNOUNCE): (_C.REFUSED, CloseReason.HANDSHAKE_UNEXPECTED),
    (_C.START, _CE.CLOSING): (_C.REFUSED, None),
    (_C.START, _CE.OTHER): (_C.REFUSED, CloseReason.HANDSHAKE_UNEXPECTED),
    (_C.START, _CE.MALFORMED): (_C.REFUSED, CloseReason.HANDSHAKE_UNEXPECTED),
    (_C.START, _CE.OVERSIZE): (_C.REFUSED, CloseReason.HANDSHAKE_UNEXPECTED),
    (_C.START, _CE.TIMEOUT): (_C.REFUSED, CloseReason.HELLO_TIMEOUT),
    (_C.START, _CE.EOF): (_C.REFUSED, CloseReason.PEER_CLOSED),
    (_C.WAITING, _CE.OPEN): MISUSE,
    (_C.WAITING, _CE.ANNOUNCE): (_C.REGISTERED, None),
    (_C.WAITING, _CE.CLOSING): (_C.REFUSED, None),
    (_C.WAITING, _CE.OTHER): (_C.REFUSED, CloseReason.HANDSHAKE_UNEXPECTED),
    (_C.WAITING, _CE.MALFORMED): (_C.REFUSED, CloseReason.HANDSHAKE_UNEXPECTED),
    (_C.WAITING, _CE.OVERSIZE): (_C.REFUSED, CloseReason.HANDSHAKE_UNEXPECTED),
    (_C.WAITING, _CE.TIMEOUT): (_C.REFUSED, CloseReason.HELLO_TIMEOUT),
    (_C.WAITING, _CE.EOF): (_C.REFUSED, CloseReason.PEER_CLOSED),
    (_C.REGISTERED, _CE.OPEN): MISUSE,
    (_C.REGISTERED, _CE.ANNOUNCE): MISUSE,
    (_C.REGISTERED, _CE.CLOSING): MISUSE,
    (_C.REGISTERED, _CE.OTHER): MISUSE,
    (_C.REGISTERED, _CE.MALFORMED): MISUSE,
    (_C.REGISTERED, _CE.OVERSIZE): MISUSE,
    (_C.REGISTERED, _CE.TIMEOUT): (_C.REGISTERED, None),
    (_C.REGISTERED, _CE.EOF): (_C.REGISTERED, None),
    (_C.REFUSED, _CE.OPEN): MISUSE,
    (_C.REFUSED, _CE.ANNOUNCE): (_C.REFUSED, None),
    (_C.REFUSED, _CE.CLOSING): (_C.REFUSED, None),
    (_C.REFUSED, _CE.OTHER): (_C.REFUSED, None),
    (_C.REFUSED, _CE.MALFORMED): (_C.REFUSED, None),
    (_C.REFUSED, _CE.OVERSIZE): (_C.REFUSED, None),
    (_C.REFUSED, _CE.TIMEOUT): (_C.REFUSED, None),
    (_C.REFUSED, _CE.EOF): (_C.REFUSED, None),
}
