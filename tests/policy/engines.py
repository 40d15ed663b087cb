"""A policy engine that is a Python function, for tests of what stands around one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from skep.protocol.errors import PolicyError

UNDEFINED = object()


@dataclass(frozen=True)
class Found:
    """As `skep_policy.evaluator.Evaluation`."""

    result: Any = None
    defined: bool = True
    error: str = ""
    detail: str = ""
    ns: int = 10_000


Rule = Callable[[dict[str, Any], dict[str, Any]], Any]  # (input, data) -> a result, UNDEFINED, or a whole Found


class FakeEngine:
    """Rules by entry point; the data is a real document that patches really change."""

    def __init__(self, data: bytes = b"{}", *, ns: int = 10_000, **rules: Rule) -> None:
        self.data: dict[str, Any] = orjson.loads(data)
        self.rules = {f"router/{name}": rule for name, rule in rules.items()}
        self.ns = ns
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refuses_patches = False
        self.closed = False

    def decide(self, entrypoint: str, input: bytes, overlay: Sequence[Any] = ()) -> Found:
        assert not self.closed
        document = orjson.loads(input)
        self.asked.append((entrypoint, document))
        seen = dict(self.data)
        for path, value in overlay:
            assert path[0] == "identity" and len(path) == 2
            seen["identity"] = {**seen.get("identity", {}), path[1]: orjson.loads(value)}
        result = self.rules[entrypoint](document, seen)
        if isinstance(result, Found):
            return result
        return Found(None, False, ns=self.ns) if result is UNDEFINED else Found(result, ns=self.ns)

    def apply(self, patches: Sequence[Any]) -> None:
        if self.refuses_patches:
            raise PolicyError("MEMORY", "no room for the data")
        for path, value in patches:
            parent = self.data
            for part in path[:-1]:
                parent = parent[part]
            if value is None:
                del parent[path[-1]]
            else:
                parent[path[-1]] = orjson.loads(value)

    def close(self) -> None:
        self.closed = True
