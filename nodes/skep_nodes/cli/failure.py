"""How a command fails: a stable code, what happened, why, what to run next, and an exit code.

One class, so that every way to fail prints alike, on stderr for people and as one JSON document with `-o json`.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    UNREACHABLE = 5
    CONFLICT = 6
    INTERRUPTED = 130


class Failure(Exception):
    """An expected failure; never shown as a traceback."""

    def __init__(
        self, code: str, what: str, *, why: str = "", then: str = "", exit_code: Exit = Exit.FAILED
    ) -> None:
        super().__init__(f"{code}: {what}")
        self.code, self.what, self.why, self.then, self.exit_code = code, what, why, then, exit_code

    def document(self) -> dict[str, object]:
        """The JSON form."""
        facts = {"code": self.code, "what": self.what, "why": self.why, "next": self.then}
        return {"schema": "skep.error/1", "error": {name: value for name, value in facts.items() if value}}

    def text(self) -> str:
        """The form for people."""
        lines = [f"error {self.code}: {self.what}"]
        lines += [f"  why:  {self.why}"] if self.why else []
        lines += [f"  next: {self.then}"] if self.then else []
        return "\n".join(lines)


def no_file(path: object) -> Failure:
    """A file that was named is not there, or is a folder."""
    return Failure("NOT_FOUND", f"{path} is no file", then="correct the file's name, and repeat it",
                   exit_code=Exit.NOT_FOUND)  # fmt: skip


# Codes that nodes and routers answer with, and the exit code a script should see for each.
_EXITS = {
    Exit.NOT_FOUND: {"NOT_FOUND", "NODE_NOT_FOUND", "HIVE_NOT_FOUND", "REGION_NOT_FOUND", "UNKNOWN_ACTION",
                     "ILK_NOT_FOUND", "INVALID_TENANT"},
    Exit.DENIED: {"FORBIDDEN", "VPN_BLOCKED", "ILK_FORBIDDEN", "TENANT_BLOCKED", "SOURCE_FORGED", "POLICY_DENIED",
                  "SEAL_REQUIRED", "NAME_NOT_GRANTED", "UID_NOT_GRANTED", "TICKET_INVALID", "GRANT_REVOKED",
                  "UNAUTHORIZED_REGISTRAR", "CHANNEL_NOT_GRANTED", "TENANT_NOT_ADMITTED", "TENANT_PENDING",
                  "TENANT_SUSPENDED", "EVIDENCE_UNPROVEN"},
    Exit.UNREACHABLE: {"TIMEOUT", "NOT_READY", "QUEUE_FULL", "PEER_UNAVAILABLE", "DRAINING", "LOST", "UNKNOWN",
                       "DEADLINE_EXCEEDED", "TTL_EXCEEDED", "UNREACHABLE", "WAN_UNAVAILABLE", "GATEWAY_UNAVAILABLE",
                       "OPA_ERROR", "OPA_NO_TARGET", "POLICY_BUSY", "UNAUTHENTICATED_LIMIT", "TABLE_FULL",
                       "DESCRIPTORS", "HELLO_TIMEOUT", "PEER_CLOSED", "IO_ERROR", "DRAINED", "DB_NOT_READY",
                       "NOT_PRIMARY"},
    Exit.CONFLICT: {"VERSION_CONFLICT", "DUPLICATE_PREFIX", "DUPLICATE_PATTERN", "DUPLICATE_GRANT", "NAME_TAKEN",
                    "UUID_TAKEN", "VERSION_MISMATCH", "NOTHING_STAGED", "NO_BACKUP", "BUSY", "MODULE_EXISTS",
                    "HANDLER_TAKEN", "KEY_ACTIVE", "IMMUTABLE", "DUPLICATE_EMAIL", "DUPLICATE_ICH",
                    "DUPLICATE_NODE_NAME", "DUPLICATE_CONSTRAINT", "INVALID_MERGE_SOURCE", "INVALID_SPLIT",
                    "INVALID_TENANT_TRANSITION"},
    Exit.USAGE: {"INVALID_PAYLOAD", "INVALID_CONFIG", "INVALID_NAME", "NAME_INVALID", "INVALID_VERSION",
                 "INVALID_ARCHIVE", "MODULE_TOO_LARGE", "INVALID_REQUEST", "VOCABULARY_INVALID"},
}  # fmt: skip


def exit_for(code: str) -> Exit:
    """The exit code that stands for an answer's error code."""
    return next((exit_code for exit_code, codes in _EXITS.items() if code in codes), Exit.FAILED)
