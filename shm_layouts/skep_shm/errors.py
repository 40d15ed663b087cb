"""What can be wrong with a region, as one exception with facts.

A region is refused before a byte of it is mapped: a reader that mapped first and looked later would die of
SIGBUS on a truncated file. Each refusal has a code that programs compare, and says what is wrong, where, and
what to do next.
"""

from __future__ import annotations

from enum import StrEnum


class RegionCode(StrEnum):
    """Why a region cannot be used, or a write cannot be done."""

    MISSING = "MISSING"  # no such region: its writer never started, or ended in order
    BUSY = "BUSY"  # a live writer holds the anchor
    NO_SPACE = "NO_SPACE"  # /dev/shm is full
    TRUNCATED = "TRUNCATED"  # the file is not as long as its header says
    FOREIGN_OWNER = "FOREIGN_OWNER"  # owned by a uid that may not write for this hive
    WRONG_MODE = "WRONG_MODE"  # group or others could write it
    NOT_READY = "NOT_READY"  # magic is not there (yet)
    WRONG_KIND = "WRONG_KIND"  # another kind of region under this name
    WRONG_VERSION = "WRONG_VERSION"  # laid out by another version of Skep
    DAMAGED = "DAMAGED"  # a checksum does not match
    UNSTABLE = "UNSTABLE"  # changed under the reader more often than it may retry
    CLOSED = "CLOSED"  # the handle was closed
    TOO_LONG = "TOO_LONG"  # a value does not fit its field
    LIMIT = "LIMIT"  # a bound of the layout was reached


class RegionError(Exception):
    """A region that may not be read or written.

    `code` is stable, `region` names the segment, `hint` says what to do next.
    """

    def __init__(self, code: RegionCode, region: str, detail: str, hint: str = "") -> None:
        self.code = code
        self.region = region
        self.detail = detail
        self.hint = hint
        super().__init__(f"{region}: {detail} [{code}]" + (f"; {hint}" if hint else ""))
