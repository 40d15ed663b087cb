"""What a router says about its decisions, line by line, and what of it is kept: the core of SY.decisions.

A payload of the decision stream is JSON lines: decisions, and `{"lost": n}` for those that a router could not send.
Each line is judged alone, so one that is none costs only itself. Masks are applied here, before anything can be
written. No file, no clock, no socket.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from skep.protocol.errors import PolicyError
from skep_nodes.sy.decisions_store import Bounds
from skep_policy.record import RECORD_BYTES_MAX, Masks, check

LINES_MAX: Final = 4096  # of one payload: a frame has room for fewer
SETTINGS_BYTES_MAX: Final = 64 << 10
FILE_BYTES_LEAST: Final = 64 << 10
TOTAL_BYTES_MOST: Final = 1 << 40


@dataclass(slots=True)
class Accepted:
    """What a payload holds. `lost` were lost by the router, `invalid` are lines that are no decisions."""

    documents: list[dict[str, Any]] = field(default_factory=list)
    decisions: int = 0
    lost: int = 0
    invalid: int = 0


def accept(payload: bytes, router: str, masks: Masks) -> Accepted:
    """Read one payload of `router`."""
    found = Accepted()
    lines = payload.split(b"\n", LINES_MAX)
    found.invalid += bool(lines[LINES_MAX:] and lines.pop().strip())
    for line in lines:
        if line.strip():
            _accept_line(line, router, masks, found)
    return found


def _accept_line(line: bytes, router: str, masks: Masks, found: Accepted) -> None:
    event = _event(line)
    if event is None:
        found.invalid += 1
        return
    lost = event.get("lost")
    if isinstance(lost, int) and "decision_id" not in event:
        found.lost += max(0, lost)
        found.documents.append({"kind": "lost", "n": max(0, lost), "where": router})
        return
    try:
        check(event)
    except PolicyError:
        found.invalid += 1
        return
    masks.apply(event)
    event.pop("crc", None)
    found.decisions += 1
    found.documents.append({"kind": "decision", **{k: v for k, v in event.items() if k != "kind"}})


def _event(line: bytes) -> dict[str, Any] | None:
    if len(line) > RECORD_BYTES_MAX:
        return None
    try:
        event = orjson.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


# -- settings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may say about the log."""

    masks: Masks = field(default_factory=Masks)
    bounds: Bounds = field(default_factory=Bounds)


def read_settings(path: Path | None) -> Settings:
    """The settings in a JSON file. Raises PolicyError SETTINGS_INVALID, MASK_INVALID: a log with a mask that is not in
    force must not be written."""
    if path is None:
        return Settings()
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(SETTINGS_BYTES_MAX))
    except (OSError, ValueError, RecursionError) as error:
        raise PolicyError("SETTINGS_INVALID", f"{path.name}: {error}") from error
    return settings_of(document)


def settings_of(document: Any) -> Settings:
    """`{masks: […], file_mib, file_hours, total_mib}`; what is not said stays as it is."""
    if not isinstance(document, dict) or set(document) - {"masks", "file_mib", "file_hours", "total_mib"}:
        raise PolicyError("SETTINGS_INVALID", "known are masks, file_mib, file_hours and total_mib")
    masks = document.get("masks", [])
    if not isinstance(masks, list):
        raise PolicyError("SETTINGS_INVALID", "masks is no list")
    default = Bounds()
    bounds = Bounds(
        int(_number(document, "file_mib", default.file_bytes / (1 << 20)) * (1 << 20)),
        _number(document, "file_hours", default.file_age_s / 3600) * 3600,
        int(_number(document, "total_mib", default.total_bytes / (1 << 20)) * (1 << 20)),
    )
    if not FILE_BYTES_LEAST <= bounds.file_bytes <= bounds.total_bytes <= TOTAL_BYTES_MOST:
        raise PolicyError("SETTINGS_INVALID", "file_mib is at least 0.0625, and at most total_mib")
    return Settings(Masks(masks), bounds)


def _number(document: dict[str, Any], name: str, default: float) -> float:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise PolicyError("SETTINGS_INVALID", f"{name} is no positive number")
    return float(value)
