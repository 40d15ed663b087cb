"""What became of messages that nobody waits for any more: lost, perhaps lost, or refused.

After a cut the client knows of every message it sent on that link one of three things: the router finished with it, it
never left this process (LOST), or it left and nobody can say (UNKNOWN). The last two are told to the application, one
Report each, so that nothing disappears without a word. A refusal that comes back for a message without a waiting caller
is a Report too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

from skep.protocol.codes import Reason


@unique
class Outcome(StrEnum):
    LOST = "LOST"  # certainly not delivered: it may be sent again
    UNKNOWN = "UNKNOWN"  # perhaps delivered: sending it again may do it twice
    REFUSED = "REFUSED"  # the router said why not


@dataclass(frozen=True, slots=True)
class Report:
    """The fate of one message. `reason` repeats the outcome, or says why the router refused it."""

    outcome: Outcome
    message_id: int
    reason: Reason
    trace_id: str = ""
    detail: str = ""


def of_cut(first_id: int, finished: int, flushed_id: int, next_id: int) -> tuple[range, range]:
    """The (LOST, UNKNOWN) ids of a link that ended: written and unfinished is unknown, unwritten is lost.

    >>> of_cut(100, 2, 105, 107)
    (range(105, 107), range(102, 105))
    """
    return range(flushed_id, next_id), range(first_id + finished, flushed_id)
