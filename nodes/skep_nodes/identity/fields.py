"""Reading a request's payload: every member known, of its type, within its bound, else an INVALID_REQUEST says which.

An unknown member is refused and not ignored: a misspelt `tenant_id` would otherwise put somebody into the default
tenant without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from skep_nodes.identity import ids, limits
from skep_nodes.identity.refusal import Code, Refusal, invalid

_TAG = re.compile(r"[a-z0-9_]+", re.ASCII)


class Fields:
    """The members of one object. `where` stands before their names in what is said about them."""

    def __init__(self, payload: object, known: Collection[str], where: str = "") -> None:
        if not isinstance(payload, Mapping):
            raise invalid(f"{where.rstrip('.') or 'the payload'} must be an object")
        self._values: Mapping[str, Any] = payload
        self._where = where
        for name in payload:
            if name not in known:
                near = get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise invalid(f"unknown field {where}{str(name)[:64]!r}{hint}")

    def has(self, name: str) -> bool:
        """Whether it is there and not null."""
        return self._values.get(name) is not None

    def text(self, name: str, most: int, default: str | None = None) -> str:
        """A text of 1 to `most` characters; `default` when it is absent, None for a field that must be there."""
        value = self._values.get(name)
        if value is None:
            if default is None:
                raise invalid(f"missing {self._where}{name}")
            return default
        if not isinstance(value, str):
            raise invalid(f"{self._where}{name} must be text")
        value = value.strip()
        if not value and default is not None:
            return default
        if not 0 < len(value) <= most:
            raise invalid(f"{self._where}{name} must have 1 to {most} characters, not {len(value)}")
        if not value.isprintable():
            raise invalid(f"{self._where}{name} holds a control character")
        return value

    def choice(self, name: str, choices: Mapping[str, int], default: str | None = None) -> int:
        """One of a few words, as its number."""
        value = self._values.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise invalid(f"{self._where}{name} must be one of {', '.join(choices)}")
        return choices[value]

    def key(self, name: str, prefix: str, required: bool = True) -> bytes:
        """An id such as `ilk:<uuid>`; NONE when it is absent and may be."""
        if not self.has(name) and not required:
            return ids.NONE
        text = self.text(name, 64)
        key = ids.parse(prefix, text)
        if key is None:
            raise invalid(f"{self._where}{name} must be {prefix}<uuid>, in lower case")
        return key

    def tags(self, name: str) -> tuple[str, ...]:
        """Roles or capabilities; sorted, each once. Refused with VOCABULARY_INVALID for other characters."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > limits.TAGS_MAX:
            raise invalid(f"{self._where}{name} must be a list of at most {limits.TAGS_MAX} texts")
        return tuple(sorted({tag_of(each, f"{self._where}{name}") for each in value}))

    def object(self, name: str, required: bool = False) -> dict[str, Any]:
        """A JSON object within its bound."""
        value = self._values.get(name)
        if value is None and not required:
            return {}
        if not isinstance(value, dict):
            raise invalid(f"{self._where}{name} must be an object")
        try:
            size = len(json.dumps(value, ensure_ascii=False).encode())
        except (UnicodeEncodeError, ValueError, RecursionError) as error:
            raise invalid(f"{self._where}{name} holds what is no JSON text") from error
        if size > limits.OBJECT_BYTES_MAX:
            raise invalid(f"{self._where}{name} has {size} bytes, {limits.OBJECT_BYTES_MAX} at most")
        return value

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number of `low`..`high`."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise invalid(f"{self._where}{name} must be a whole number of {low}..{high}")
        return value

    def entries(self, name: str, most: int) -> list[Any]:
        """A list, its entries still to be read."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > most:
            raise invalid(f"{self._where}{name} must be a list of at most {most}")
        return value

    def inner(self, name: str, known: Collection[str]) -> Fields:
        """An object inside this one."""
        return Fields(self._values.get(name), known, f"{self._where}{name}.")


def tag_of(value: object, where: str) -> str:
    """One tag. Raises Refusal VOCABULARY_INVALID."""
    if not isinstance(value, str) or len(value) > limits.TAG_CHARS_MAX or _TAG.fullmatch(value) is None:
        shown = repr(value)[:80]
        raise Refusal(
            Code.VOCABULARY_INVALID, f"{where}: {shown} must have 1 to 64 of a-z, 0-9 and _", tag=shown
        )
    return value
