"""Hashes and message authentication codes, as hex."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from skep_policy.builtins.values import Value, a_string


def digest(name: str, text: Value) -> str:
    return hashlib.new(name, a_string(text).encode(), usedforsecurity=False).hexdigest()


def code(name: str, text: Value, key: Value) -> str:
    return hmac.new(a_string(key).encode(), a_string(text).encode(), name).hexdigest()


def equal(one: Value, other: Value) -> bool:
    return hmac.compare_digest(a_string(one).encode(), a_string(other).encode())


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    **{f"crypto.{name}": partial(digest, name) for name in ("md5", "sha1", "sha256")},
    **{f"crypto.hmac.{name}": partial(code, name) for name in ("md5", "sha1", "sha256", "sha512")},
    "crypto.hmac.equal": equal,
}
