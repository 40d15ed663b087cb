"""A system verb of SY.identity: who may say it, and how its payload becomes an action.

Names of callers are patterns over the name without its hive (`names.glob_match`). What is compared is the name that the
router proved, never one that the message states. A verb without patterns is open to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from skep.protocol.names import base_of, glob_match, hive_of
from skep_nodes.identity.action import Action
from skep_nodes.identity.callers import Caller


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that SY.identity can be asked. `read` raises Refusal for a payload that is not as it must be."""

    callers: tuple[str, ...]
    read: Callable[[Mapping[str, Any], Caller], Action]

    def allows(self, caller: Caller, hive: str) -> bool:
        """Whether this caller may say it: another hive's name proves nothing here."""
        if not self.callers:
            return True
        return caller.proven and _matches(self.callers, caller.name, hive)


@lru_cache(maxsize=1024)  # asked for every message, and few names ask
def _matches(patterns: tuple[str, ...], name: str, hive: str) -> bool:
    base = base_of(name)
    return hive_of(name) == hive and any(glob_match(pattern, base) for pattern in patterns)
