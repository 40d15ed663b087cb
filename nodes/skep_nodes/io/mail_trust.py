"""Whether a letter is from the address that its From field names.

Anybody can write anything into From. The server that took the letter has checked the sending domain's signature (DKIM)
and policy (DMARC) and says so in Authentication-Results (RFC 8601), under its own name: the configured `authserv_id`.
Only such fields count, only those on top (a server adds above what came with the letter and, by RFC 8601 §5, removes
fields that claim its name), and only what they say of From's own domain:

    dmarc=pass with header.from = that domain, or dkim=pass with header.d = that domain, and nothing of dmarc that is
    not pass or none

Not counted: SPF (it proves the sending machine, which on a shared host is everybody's), signatures of other domains, a
field that cannot be read to its end. What is proven is the domain; that it lets nobody write in another's name is its
own duty. Without `authserv_id` nothing is proven.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from skep_nodes.io.mail_head import RESULT_CHARS_MAX

METHODS_MAX: Final = 64  # of one field
_QUIET: Final = frozenset(("pass", "none"))
_AROUND_EQUALS = re.compile(r"\s*=\s*")


class Verdict(NamedTuple):
    """`why` names what proved it, or what was missing."""

    proven: bool
    why: str


class Finding(NamedTuple):
    """One method's result and its properties, all in lower case."""

    method: str
    result: str
    properties: dict[str, str]


def judge(results: Sequence[str], authserv_id: str, domain: str) -> Verdict:
    """Whether these fields prove that the letter is from `domain`."""
    if not authserv_id:
        return Verdict(False, "no authserv_id is configured")
    findings: list[Finding] = []
    for value in results:
        read = read_results(value)
        if read is None:
            return Verdict(False, "Authentication-Results cannot be read")
        if read[0] == authserv_id.lower():
            findings += read[1]
    return _weighed(findings, domain.lower())


def read_results(value: str) -> tuple[str, list[Finding]] | None:
    """The server's name and its findings; None for a field that is not of RFC 8601's form."""
    plain = _without_comments(value) if len(value) <= RESULT_CHARS_MAX else None
    if plain is None:
        return None
    server, *rest = _AROUND_EQUALS.sub("=", plain.lower()).split(";", METHODS_MAX)
    names = server.split()
    if not names or "=" in names[0] or len(rest) > METHODS_MAX - 1:
        return None
    return names[0], [found for each in rest if (found := _finding(each.split())) is not None]


def _weighed(findings: list[Finding], domain: str) -> Verdict:
    dmarc = [each for each in findings if each.method == "dmarc"]
    if any(each.result not in _QUIET for each in dmarc):
        return Verdict(False, "dmarc did not pass")
    if any(each.result == "pass" and each.properties.get("header.from") != domain for each in dmarc):
        return Verdict(False, "dmarc passed for another domain than From's")
    if any(each.result == "pass" for each in dmarc):
        return Verdict(True, "dmarc")
    signed = [each.properties.get("header.d") for each in findings if each[:2] == ("dkim", "pass")]
    if domain in signed:
        return Verdict(True, "dkim")
    return Verdict(False, "neither dmarc nor a signature of From's domain passed")


def _finding(words: list[str]) -> Finding | None:
    if not words:
        return None
    method, _, result = words[0].partition("=")
    properties: dict[str, str] = {}
    for word in words[1:]:
        name, _, value = word.partition("=")
        if name in properties and properties[name] != value:
            return Finding(method.partition("/")[0], "permerror", {})  # says two things: says nothing
        properties[name] = value
    return Finding(method.partition("/")[0], result, properties)


def _without_comments(value: str) -> str | None:
    """The text without comments; of a quoted one nothing is left that separates. None when either has no end."""
    out: list[str] = []
    depth, quoted, escaped = 0, False, False
    for letter in value:
        if escaped:
            escaped = False
        elif letter == "\\" and (quoted or depth):
            escaped = True
        elif letter == '"' and not depth:
            quoted = not quoted
        elif quoted:
            out.append("_" if letter in ";=" or letter.isspace() else letter)
        elif letter == "(":
            depth += 1
        elif letter == ")" and depth:
            depth -= 1
            out.append(" ")
        elif not depth:
            out.append(letter)
    return None if depth or quoted else "".join(out)
