"""Built-ins that OPA's WASM leaves to its host, written in Python.

Owns the table of names. The modules beside this one hold the functions, by subject; each is imported when a policy
that calls one of its functions is loaded, so a router pays for what its policy uses. A function takes the arguments
as Python values (see `values`) and gives one back. It raises `UndefinedError` where `opa eval` would have no answer,
and `LimitError` where an answer would cost more than a decision may: the first makes the expression undefined, the
second ends the evaluation.

Pure: no clock, no randomness, no network, no file. The one exception is `time.now_ns`, whose answers are not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

Builtin = Callable[..., Any]

WHERE: Final[dict[str, str]] = {}
"""Name of each built-in -> the module here that has it."""


def known(name: str) -> bool:
    """Does this host have it?"""
    return name in WHERE


def find(name: str) -> Builtin:
    """The function. KeyError for a name that is not `known`."""
    functions: dict[str, Builtin] = import_module(f"{__name__}.{WHERE[name]}").FUNCTIONS
    return functions[name]
