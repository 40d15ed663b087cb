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

_NAMES: Final = {
    "encoding": """
        base64url.encode_no_pad hex.decode hex.encode json.marshal_with_options urlquery.decode
        urlquery.decode_object urlquery.encode urlquery.encode_object
    """,
    "hashes": """
        crypto.hmac.equal crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512 crypto.md5
        crypto.sha1 crypto.sha256
    """,
    "networks": """
        net.cidr_contains_matches net.cidr_expand net.cidr_is_valid net.cidr_merge
    """,
    "numbers": """
        numbers.range_step semver.compare semver.is_valid units.parse units.parse_bytes uuid.parse
    """,
    "objects": """
        cast_array cast_boolean cast_null cast_object cast_set cast_string graph.reachable_paths internal.print
        json.patch object.subset print trace
    """,
    "regexes": """
        regex.find_n regex.replace regex.split regex.template_match
    """,
    "strings": """
        glob.quote_meta indexof_n sprintf strings.any_prefix_match strings.any_suffix_match strings.count
        strings.split_n
    """,
    "times": """
        time.add_date time.clock time.date time.diff time.format time.now_ns time.parse_duration_ns
        time.parse_ns time.parse_rfc3339_ns time.weekday
    """,
    "tokens": """
        io.jwt.decode io.jwt.decode_verify io.jwt.verify_eddsa io.jwt.verify_es256 io.jwt.verify_es384
        io.jwt.verify_es512 io.jwt.verify_hs256 io.jwt.verify_hs384 io.jwt.verify_hs512 io.jwt.verify_ps256
        io.jwt.verify_ps384 io.jwt.verify_ps512 io.jwt.verify_rs256 io.jwt.verify_rs384 io.jwt.verify_rs512
    """,
}

WHERE: Final[dict[str, str]] = {name: module for module, names in _NAMES.items() for name in names.split()}
"""Name of each built-in -> the module here that has it."""


def known(name: str) -> bool:
    """Does this host have it?"""
    return name in WHERE


def find(name: str) -> Builtin:
    """The function. KeyError for a name that is not `known`."""
    functions: dict[str, Builtin] = import_module(f"{__name__}.{WHERE[name]}").FUNCTIONS
    return functions[name]
