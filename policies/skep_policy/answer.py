"""What a policy's result means: names in the order in which they shall be tried, or yes or no.

`router/target` may answer a name, a list of names (of lists, too), or an object that holds such an answer under
`result`, `expressions`, `value` or `target`, asked in this order, as upstream reads it. What is null or empty names
nobody. A number, a truth value, or more than the bounds below is a mistake of the policy, never a guess of ours.
"""

from __future__ import annotations

from typing import Any, Final

from skep.protocol.limits import NAME_BYTES_MAX

CANDIDATES_MAX: Final = 16_384
"""Names in one answer: more than the largest hive has agents, and still a bounded walk."""

DEPTH_MAX: Final = 16
_MEMBERS: Final = ("result", "expressions", "value", "target")


class AnswerError(Exception):
    """The result is none that this entry point may give. The text is for the policy's author."""


def names_of(result: Any) -> tuple[str, ...]:
    """The candidates of a `target`, best first; empty when it names nobody. Raises AnswerError."""
    if type(result) is list and _plain(result):
        return tuple(dict.fromkeys(result))
    found: dict[str, None] = {}
    _collect(result, found, 0)
    return tuple(found)


def _plain(result: list[Any]) -> bool:
    """A list of good names, as nearly every answer is: told without a call for each of them."""
    if len(result) > CANDIDATES_MAX or not all(result):
        return False
    try:
        together = "".join(result)
    except TypeError:
        return False
    return len(together) <= NAME_BYTES_MAX or max(map(len, result)) <= NAME_BYTES_MAX


def _collect(value: Any, found: dict[str, None], depth: int) -> None:
    if isinstance(value, str):
        _add(value, found)
    elif depth > DEPTH_MAX:
        raise AnswerError(f"target is nested deeper than {DEPTH_MAX}")
    elif isinstance(value, list):
        for item in value:
            _collect(item, found, depth + 1)
    elif isinstance(value, dict):
        _collect_member(value, found, depth)
    elif value is not None:
        raise AnswerError(f"target is {_shown(value)}; it must be a name or an ordered list of names")


def _collect_member(value: dict[str, Any], found: dict[str, None], depth: int) -> None:
    """The first member that names anybody."""
    before = len(found)
    for member in _MEMBERS:
        _collect(value.get(member), found, depth + 1)
        if len(found) > before:
            return


def _add(name: str, found: dict[str, None]) -> None:
    if not name:
        return
    if len(name) > NAME_BYTES_MAX:
        raise AnswerError(f"target names {name[:40]!r}…, longer than a name may be ({NAME_BYTES_MAX})")
    found[name] = None
    if len(found) > CANDIDATES_MAX:
        raise AnswerError(f"target names more than {CANDIDATES_MAX} candidates")


def allowed_by(result: Any) -> bool:
    """Whether `allow` said yes. Raises AnswerError for anything but true and false."""
    if isinstance(result, list) and len(result) == 1 and isinstance(result[0], dict):
        result = result[0].get("result")  # the result set of an engine that unwraps nothing
    if isinstance(result, bool):
        return result
    raise AnswerError(f"allow is {_shown(result)}; it must be true or false")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
