"""The closed lists of header v1: each number with its name. A number outside its list is refused, never guessed."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class MessageClass(IntEnum):
    LINK = 0
    USER = 1
    SYSTEM = 2
    ADMIN = 3
    QUERY = 4
    QUERY_RESPONSE = 5
    COMMAND = 6
    COMMAND_RESPONSE = 7
    RECEIPT = 8
    TAP = 9
    OTHER = 15


class Flags(IntFlag):
    NONE = 0
    SAMPLED = 1


class Phase(IntEnum):
    MESSAGE = 0
    REQUEST = 1
    REPLY = 2
    PROGRESS = 3
    PART = 4
    END = 5
    ERROR = 6
    CANCEL = 7


class ContentType(IntEnum):
    JSON = 0
    MSGPACK = 1
    TEXT = 2
    BYTES = 3


class AckLevel(IntEnum):
    NONE = 0
    ROUTED = 1
    DELIVERED = 2
    STORED = 3
    PROCESSED = 4


class DstKind(IntEnum):
    POLICY = 0
    UUID = 1
    NAME = 2
    BROADCAST = 3


class Scope(IntEnum):
    NONE = 0
    VPN = 1
    GLOBAL = 2


class ActionClass(IntEnum):
    NONE = 0
    SEND_MESSAGE = 1
    READ = 2
    WRITE = 3
    SYSTEM_CONFIG = 4
    TOPOLOGY_CHANGE = 5
    EXTERNAL_ACTION = 6
    IDENTITY_CHANGE = 7
    WORKFLOW_STEP = 8
    NODE_LIFECYCLE = 9


CLASS_TEXTS: Final = {
    member.name.lower(): member for member in MessageClass if member is not MessageClass.OTHER
}
"""`meta.type` of every class that has a number of its own."""
