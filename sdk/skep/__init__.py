"""Skep for node authors: connect to a hive, receive messages, send messages.

Names load on first use (PEP 562), so ``import skep`` costs next to nothing and a program pays only for what it
touches: ``skep.Node`` brings asyncio and the protocol, ``skep.sync`` a thread, ``skep.testing`` the in-memory hive,
and pydantic loads only when a typed handler is declared. The list below is the public API, written by hand.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, without loading typing: this module is imported by everybody

if TYPE_CHECKING:
    from skep.client import Client
    from skep.errors import DeliveryError, LinkClosed, ProtocolError, RemoteError, RequestTimeout, SkepError
    from skep.hive import Hive, find_hive
    from skep.message import Message
    from skep.node import Node
    from skep.receipts import Receipt
    from skep.receiver import Receiver, Sender, connect
    from skep.reports import Outcome, Report

__all__ = [
    "Client",
    "DeliveryError",
    "Hive",
    "LinkClosed",
    "Message",
    "Node",
    "Outcome",
    "ProtocolError",
    "Receipt",
    "Receiver",
    "RemoteError",
    "Report",
    "RequestTimeout",
    "Sender",
    "SkepError",
    "connect",
    "find_hive",
]

_HOME = {
    "Client": "client",
    "DeliveryError": "errors",
    "Hive": "hive",
    "LinkClosed": "errors",
    "Message": "message",
    "Node": "node",
    "Outcome": "reports",
    "ProtocolError": "errors",
    "Receipt": "receipts",
    "Receiver": "receiver",
    "RemoteError": "errors",
    "Report": "reports",
    "RequestTimeout": "errors",
    "Sender": "receiver",
    "SkepError": "errors",
    "connect": "receiver",
    "find_hive": "hive",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'skep' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"skep.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
