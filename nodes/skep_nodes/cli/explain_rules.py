"""Which rules of a policy fired for one input, by line: `opa eval` with its trace, over policy and data of that time.

The WASM that decides keeps no lines, so the text is evaluated again by `opa`. A rule fired when the trace leaves it by
an Exit; where nothing was answered but a default, the expressions that failed say what was missing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from skep.protocol.errors import PolicyError
from skep_policy.opa import REGO_NAME, find_opa, run

RULES_MAX: Final = 40
FAILED_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that held: its line, its name and the title that its metadata gives it."""

    line: int
    rule: str
    title: str = ""


@dataclass(slots=True)
class Rules:
    """What became of the rules. `why_not`: why that is not known."""

    fired: list[Fired] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # line:column and text of expressions that did not hold
    why_not: str = ""

    def document(self) -> dict[str, Any]:
        return {
            "fired": [asdict(each) for each in self.fired],
            "failed": self.failed,
            "why_not": self.why_not,
        }


def rules_of(
    rego: str, data: Mapping[str, Any], asked: Mapping[str, Any], path: str, *, old: bool = False
) -> Rules:
    """The rules that fired when `path` was asked. `old`: the text has the syntax of before OPA 1.0."""
    opa = find_opa()
    if opa is None:
        return Rules(
            why_not="the lines need the opa command: `make tools`, or put it on PATH, or name it in SKEP_OPA"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="skep-opa-") as name:
            found = _traced(opa, Path(name), rego, with_guests(data, asked), asked, path, old)
    except PolicyError as error:
        return Rules(why_not=str(error))
    return Rules(list(_fired(found))[:RULES_MAX], list(_failed(found, rego.splitlines()))[:FAILED_MAX])


def with_guests(data: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The data as this decision saw it: its own interlocutors stand in `identity`."""
    records = [asked.get(name) for name in ("src", "dst")]
    guests = {
        str(record["ilk"]): record for record in records if isinstance(record, dict) and record.get("ilk")
    }
    return {**data, "identity": guests | dict(data.get("identity") or {})}


def _traced(
    opa: Path,
    folder: Path,
    rego: str,
    data: Mapping[str, Any],
    asked: Mapping[str, Any],
    path: str,
    old: bool,
) -> list[dict[str, Any]]:
    (folder / REGO_NAME).write_text(rego)
    for name, document in (("data", data), ("input", asked)):
        (folder / f"{name}.json").write_text(json.dumps(document))
    query = "data." + path.replace("/", ".")
    flags = ["--v0-compatible"] if old else []
    # Without the index every rule is tried, so the trace also has the lines that did not hold.
    arguments = [
        "eval",
        "--explain=full",
        "--disable-indexing",
        "--format",
        "json",
        *flags,
        "-d",
        REGO_NAME,
        "-d",
        "data.json",
    ]
    found = run(opa, [*arguments, "-i", "input.json", query], folder).document()
    if not isinstance(found, dict) or "explanation" not in found:
        errors = found.get("errors") if isinstance(found, dict) else None
        said = errors[0].get("message", "") if errors else "no trace"
        raise PolicyError("OPA_FAILED", f"opa eval: {said}")
    return [event for event in found["explanation"] or () if isinstance(event, dict)]


def _fired(events: list[dict[str, Any]]) -> Iterator[Fired]:
    seen = set()
    for event in events:
        node, place = event.get("Node"), event.get("Location") or {}
        if event.get("Op") != "Exit" or not isinstance(node, dict) or "head" not in node:
            continue
        titles = [str(each.get("title") or "") for each in node.get("annotations") or ()]
        fired = Fired(int(place.get("row") or 0), _name(node["head"]), next(filter(None, titles), ""))
        if fired not in seen and place.get("file") == REGO_NAME:
            seen.add(fired)
            yield fired


def _failed(events: list[dict[str, Any]], lines: list[str]) -> Iterator[str]:
    seen = set()
    for event in events:
        place = event.get("Location") or {}
        row = place.get("row") or 0
        if (
            event.get("Op") == "Fail"
            and place.get("file") == REGO_NAME
            and row not in seen
            and 0 < row <= len(lines)
        ):
            seen.add(row)
            yield f"{row}: {lines[row - 1].strip()}"


def _name(head: Mapping[str, Any]) -> str:
    parts = [str(part.get("value")) for part in head.get("ref") or () if isinstance(part, dict)]
    return ".".join(parts) or str(head.get("name") or "")
