"""One request, cut into what it must see and what it does: the shape of everything that SY.identity can be asked.

`needs` is called again after each reading, until it asks for nothing new (`ROUNDS_MAX`): the first call may name a
channel, the second the interlocutor that was found to own it. `run` then decides at once; it changes rows only through
the view, and raises Refusal to leave no trace. Neither waits, reads a clock or knows a database, so a group of requests
is one transaction on any store, and a test needs no server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from skep_nodes.identity.view import Ask, View

ROUNDS_MAX: Final = 5
"""Readings for one request: channel, owner, its canonical one, that one's channels, and one to see that this is all."""


class Action(Protocol):
    """Something to do in the store, as a whole or not at all."""

    def needs(self, view: View) -> Iterable[Ask]:
        """Rows that must be loaded. May look at what is loaded already."""
        ...

    def run(self, view: View) -> dict[str, Any]:
        """Decide, change, answer. Raises Refusal."""
        ...
