"""What identity refuses: a closed list of codes, each with a sentence of its own beside it.

A code is compared by programs and never carries text; what happened, and what to do next, stands in `message`. The
codes of the first block are upstream's and never change.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Any


@unique
class Code(StrEnum):
    """Why a request was refused."""

    UNAUTHORIZED_REGISTRAR = "UNAUTHORIZED_REGISTRAR"
    NOT_PRIMARY = "NOT_PRIMARY"
    DB_NOT_READY = "DB_NOT_READY"
    DB_WRITE_FAILED = "DB_WRITE_FAILED"
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_TENANT = "INVALID_TENANT"
    TENANT_PENDING = "TENANT_PENDING"
    INVALID_TENANT_TRANSITION = "INVALID_TENANT_TRANSITION"
    ILK_NOT_FOUND = "ILK_NOT_FOUND"
    NOT_FOUND = "NOT_FOUND"
    INVALID_MERGE_SOURCE = "INVALID_MERGE_SOURCE"
    VOCABULARY_INVALID = "VOCABULARY_INVALID"
    DUPLICATE_EMAIL = "DUPLICATE_EMAIL"
    DUPLICATE_NODE_NAME = "DUPLICATE_NODE_NAME"
    DUPLICATE_ICH = "DUPLICATE_ICH"
    DUPLICATE_CONSTRAINT = "DUPLICATE_CONSTRAINT"
    IDENTITY_LIMIT_REACHED = "IDENTITY_LIMIT_REACHED"

    # Ours.
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    TENANT_NOT_ADMITTED = "TENANT_NOT_ADMITTED"
    CHANNEL_NOT_GRANTED = "CHANNEL_NOT_GRANTED"
    EVIDENCE_UNPROVEN = "EVIDENCE_UNPROVEN"
    INVALID_SPLIT = "INVALID_SPLIT"
    IMMUTABLE = "IMMUTABLE"
    BUSY = "BUSY"


class Refusal(Exception):
    """An expected no. `facts` are further members of the answer."""

    def __init__(self, code: Code, message: str, **facts: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.facts = code, message, facts

    def answer(self) -> dict[str, Any]:
        """What the caller hears. `error_detail` repeats `message` for readers of our own system nodes."""
        said = {"error_code": str(self.code), "message": self.message, "error_detail": self.message}
        return {"status": "error", **said, **self.facts}


def invalid(message: str) -> Refusal:
    """The usual no to a request that is not well formed."""
    return Refusal(Code.INVALID_REQUEST, message)
