"""One decision as it is logged: OPA's decision-log event, with what Skep adds to it, and what of it must not be kept.

The members of OPA's event keep their names and meaning (`labels`, `decision_id`, `trace_id`, `bundles`, `path`,
`input`, `result`, `error`, `requested_by`, `timestamp`, `metrics`, `erased`, `masked`), so its tools read our log.
Skep adds `outcome` (ALLOWED or the refusal's code), `candidates` in their order, `chosen`, `refused` with the reason of
each, `shadow` and `data_revision`. The records that the decision read stand in `input.src` and `input.dst`.

A *mask* names a place as OPA's mask decisions do: "/input/meta/context/phone", or {"op": "upsert", "path": …,
"value": …}. What is removed is listed in `erased`, what is replaced in `masked`. One difference: a part is compared
after percent-decoding, so "%2F" is a slash inside a key. OPA masks only `input` and `result`; we also let the members
be masked that repeat what stands there.

Pure: JSON documents in, JSON documents out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from skep.protocol.errors import PolicyError

ALLOWED: Final = "ALLOWED"
RECORD_BYTES_MAX: Final = 64 << 10
"""One decision as JSON: what a frame of the decision stream holds."""

MASKS_MAX: Final = 64
MASK_BYTES_MAX: Final = 1024
MASKABLE: Final = ("input", "result", "candidates", "chosen", "refused", "shadow", "error", "requested_by")
_TEXTS: Final = ("decision_id", "path", "timestamp")
_MISSING: Final = object()


class Revision(NamedTuple):
    """How far the data was: the revisions of the two regions that it is made from."""

    ilks: int = 0
    tenants: int = 0

    def __str__(self) -> str:
        return f"{self.ilks}.{self.tenants}"


class Refused(NamedTuple):
    """A candidate that was not taken."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One logged decision. `outcome` is "ALLOWED" or the code that the sender heard."""

    decision_id: str
    path: str
    timestamp: str
    input: Any = None
    result: Any = None
    outcome: str = ALLOWED
    requested_by: str = ""
    trace_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    bundles: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    candidates: tuple[str, ...] = ()
    chosen: str = ""
    refused: tuple[Refused, ...] = ()
    shadow: Mapping[str, Any] | None = None
    revision: Revision | None = None
    erased: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()

    @property
    def policy_version(self) -> int:
        """0: the record does not say it."""
        text = self.labels.get("policy_version", "")
        return int(text) if text.isdecimal() else 0

    @property
    def evaluation_ns(self) -> int:
        value = self.metrics.get("timer_rego_query_eval_ns")
        return value if isinstance(value, int) else 0

    @property
    def differs(self) -> bool:
        """Would the shadow have decided otherwise?"""
        return self.shadow is not None and self.shadow.get("differs") is True

    def to_json(self) -> dict[str, Any]:
        """The event; members that say nothing are left out, as OPA leaves them out."""
        event: dict[str, Any] = {
            "decision_id": self.decision_id, "timestamp": self.timestamp, "path": self.path,
            "labels": dict(self.labels), "input": self.input, "result": self.result,
            "outcome": self.outcome, "requested_by": self.requested_by, "trace_id": self.trace_id,
            "bundles": dict(self.bundles), "metrics": dict(self.metrics), "candidates": list(self.candidates),
            "chosen": self.chosen, "refused": [refused._asdict() for refused in self.refused],
            "erased": list(self.erased), "masked": list(self.masked), "shadow": self.shadow, "error": self.error,
            "data_revision": self.revision and self.revision._asdict(),
        }  # fmt: skip
        return {name: value for name, value in event.items() if value not in (None, "", [], {})}

    @classmethod
    def from_json(cls, event: Any) -> DecisionRecord:
        """Raises PolicyError RECORD_INVALID for what is no decision; unknown members are passed over."""
        check(event)
        return cls(
            event["decision_id"], event["path"], event["timestamp"], event.get("input"), event.get("result"),
            outcome=outcome_of(event), requested_by=_text(event, "requested_by"), trace_id=_text(event, "trace_id"),
            labels=_object(event, "labels"), bundles=_object(event, "bundles"), metrics=_object(event, "metrics"),
            error=_object(event, "error") or None, candidates=tuple(_texts(event, "candidates")),
            chosen=_text(event, "chosen"), refused=tuple(_refused(event)), shadow=_object(event, "shadow") or None,
            revision=revision_of(event), erased=tuple(_texts(event, "erased")), masked=tuple(_texts(event, "masked")),
        )  # fmt: skip


# -- reading -------------------------------------------------------------------------------------------------------


def check(event: Any) -> None:
    """Raises PolicyError RECORD_INVALID unless this is a decision."""
    if not isinstance(event, dict):
        raise _invalid("it is no object")
    for name in _TEXTS:
        if not isinstance(event.get(name), str) or not event[name]:
            raise _invalid(f"{name} is no text")


def outcome_of(event: Mapping[str, Any]) -> str:
    """What the sender was told. A log of OPA's own says only a result: then an error or a plain no is told from it."""
    said = event.get("outcome")
    if isinstance(said, str) and said:
        return said
    if event.get("error"):
        return "OPA_ERROR"
    if str(event.get("path", "")).endswith("allow"):
        return ALLOWED if event.get("result") is True else "POLICY_DENIED"
    return ALLOWED if event.get("result") else "OPA_NO_TARGET"


def revision_of(event: Mapping[str, Any]) -> Revision | None:
    """How far the data was when this was decided; None when the record does not say it."""
    said = event.get("data_revision")
    if isinstance(said, dict):
        ilks, tenants = said.get("ilks", 0), said.get("tenants", 0)
        return Revision(ilks, tenants) if isinstance(ilks, int) and isinstance(tenants, int) else None
    label = _object(event, "labels").get("data_revision", "")
    ilks_text, _, tenants_text = str(label).partition(".")
    if ilks_text.isdecimal():
        return Revision(int(ilks_text), int(tenants_text) if tenants_text.isdecimal() else 0)
    return None


def _text(event: Mapping[str, Any], name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""


def _object(event: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = event.get(name)
    return value if isinstance(value, dict) else {}


def _texts(event: Mapping[str, Any], name: str) -> list[str]:
    value = event.get(name)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _refused(event: Mapping[str, Any]) -> list[Refused]:
    value = event.get("refused")
    listed = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return [Refused(str(each.get("name", "")), str(each.get("why", ""))) for each in listed]


def _invalid(detail: str) -> PolicyError:
    return PolicyError("RECORD_INVALID", f"no decision: {detail}")


# -- masks ---------------------------------------------------------------------------------------------------------


class _Mask(NamedTuple):
    path: str
    parts: tuple[str, ...]
    upsert: bool
    value: Any


class Masks:
    """What must not be kept of a decision."""

    __slots__ = ("_masks",)

    def __init__(self, rules: Sequence[Any] = ()) -> None:
        """Raises PolicyError MASK_INVALID, which names the rule."""
        if len(rules) > MASKS_MAX:
            raise PolicyError("MASK_INVALID", f"{len(rules)} masks, {MASKS_MAX} at most")
        self._masks = tuple(map(_mask, rules))

    def __len__(self) -> int:
        return len(self._masks)

    def apply(self, event: dict[str, Any]) -> None:
        """Mask this event, in place. A place that is not there is no mistake: not every message has it."""
        erased, masked = _texts(event, "erased"), _texts(event, "masked")
        for mask in self._masks:
            if mask.upsert:
                masked += [mask.path] if _replace(event, mask.parts, mask.value) else []
            else:
                erased += [mask.path] if _erase(event, mask.parts) else []
        event |= {name: paths for name, paths in (("erased", erased), ("masked", masked)) if paths}


def _mask(rule: Any) -> _Mask:
    if isinstance(rule, str):
        rule = {"op": "remove", "path": rule}
    if not isinstance(rule, dict):
        raise PolicyError("MASK_INVALID", f"{rule!r} is neither a path nor an object with op and path")
    operation, path = rule.get("op", "remove"), rule.get("path")
    if operation not in ("remove", "upsert"):
        raise PolicyError("MASK_INVALID", f"op {operation!r}: it is remove or upsert")
    if not isinstance(path, str) or not path.startswith("/") or len(path) > MASK_BYTES_MAX:
        raise PolicyError(
            "MASK_INVALID", f"path {path!r}: it begins with a slash, as /input/meta/context/phone"
        )
    parts = tuple(unquote(part) for part in path[1:].split("/"))
    if parts[0] not in MASKABLE:
        raise PolicyError("MASK_INVALID", f"path {path!r}: it begins with one of {', '.join(MASKABLE)}")
    return _Mask(path, parts, operation == "upsert", rule.get("value"))


def _erase(event: dict[str, Any], parts: Sequence[str]) -> bool:
    parent = _find(event, parts[:-1])
    if isinstance(parent, dict):
        return parent.pop(parts[-1], _MISSING) is not _MISSING
    at = _index(parent, parts[-1])
    if at is None:
        return False
    del parent[at]
    return True


def _replace(event: dict[str, Any], parts: Sequence[str], value: Any) -> bool:
    """Objects on the way are made, as OPA makes them; a list is never made longer."""
    if len(parts) > 1 and not isinstance(event.get(parts[0]), dict | list):
        return False
    parent: Any = event
    for part in parts[:-1]:
        if isinstance(parent, dict):
            parent = parent.setdefault(part, {})
        else:
            at = _index(parent, part)
            if at is None:
                return False
            parent = parent[at]
    if isinstance(parent, dict):
        parent[parts[-1]] = value
        return True
    at = _index(parent, parts[-1])
    if at is not None:
        parent[at] = value
    return at is not None


def _find(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(value, dict):
            value = value.get(part)
        else:
            at = _index(value, part)
            value = None if at is None else value[at]
    return value


def _index(value: Any, part: str) -> int | None:
    if isinstance(value, list) and part.isascii() and part.isdecimal() and int(part[:9]) < len(value):
        return int(part[:9])
    return None
