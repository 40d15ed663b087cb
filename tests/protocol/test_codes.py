"""The closed lists: stable, explained in docs/errors.md, and told in the error tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skep.protocol import errors, limits, system
from skep.protocol.codes import CloseReason, ErrorCode, Reason
from skep.protocol.errors import (
    DeliveryError,
    LinkClosed,
    LocalProtocolError,
    PolicyError,
    ProtocolError,
    RemoteProtocolError,
    SkepError,
)

ERRORS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
UPSTREAM_REASONS = (
    "NODE_NOT_FOUND VPN_BLOCKED PEER_UNAVAILABLE WAN_UNAVAILABLE GATEWAY_UNAVAILABLE OPA_ERROR OPA_NO_TARGET"
)


def section(title: str) -> str:
    text = ERRORS_PAGE.read_text()
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> dict[str, list[str]]:
    """Rows of a section's table by the code in their first or second cell."""
    found = {}
    for line in section(title).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        code = re.fullmatch(r"`([A-Z_]+)`", cells[0])
        if code:
            found[code[1]] = cells[1:]
    return found


def test_every_close_reason_has_its_row() -> None:
    table = rows("How a link ends")
    assert set(table) == set(CloseReason.__members__)
    for reason in CloseReason:
        number, again, meaning, todo = table[reason.name]
        assert int(number) == reason
        assert again == ("yes" if reason.retryable else "no")
        assert meaning
        assert todo


def test_every_reason_has_its_row() -> None:
    table = rows("Why a message was not delivered")
    assert set(table) == set(Reason.__members__)
    for reason in Reason:
        again, meaning, todo = table[reason.name]
        assert again == ("yes" if reason.retryable else "no")
        assert meaning
        assert todo


def test_every_error_code_has_its_row() -> None:
    table = rows("What was wrong with some bytes")
    assert set(table) == set(ErrorCode.__members__)
    assert all(all(cells) for cells in table.values())


def test_upstreams_reasons_keep_their_text() -> None:
    assert UPSTREAM_REASONS.split() == [reason.value for reason in list(Reason)[:7]]


def test_a_message_that_may_have_arrived_is_not_sent_again() -> None:
    assert not Reason.UNKNOWN.retryable
    assert Reason.LOST.retryable


def test_every_close_reason_fits_the_wire_and_has_a_hint() -> None:
    assert all(0 < reason < 65536 for reason in CloseReason)
    assert set(system.HINTS) == set(CloseReason)
    assert not CloseReason.REPLACED.retryable, (
        "two processes with one uuid would throw each other out for ever"
    )
    assert CloseReason.DRAINED.orderly


def test_errors_keep_their_facts() -> None:
    error = RemoteProtocolError(ErrorCode.FRAME_TOO_LARGE, "JSON body", 10, 11)
    assert (error.code, error.limit, error.value) == ("FRAME_TOO_LARGE", 10, 11)
    assert str(error) == "FRAME_TOO_LARGE: JSON body (limit 10, got 11)"
    assert str(LocalProtocolError(ErrorCode.FIELD_TYPE, "x")) == "FIELD_TYPE: x"
    lost = DeliveryError(Reason.LOST, 5, "t", "the router died")
    assert lost.retryable
    assert str(lost) == "LOST: the router died (message 5, trace t)"
    assert str(LinkClosed(CloseReason.DRAINED)) == "DRAINED: the link has ended"
    assert str(PolicyError("COMPILE_ERROR", "line 3")) == "COMPILE_ERROR: line 3"


def test_the_tree_has_one_root() -> None:
    for branch in (ProtocolError, LinkClosed, PolicyError, DeliveryError):
        assert issubclass(branch, SkepError)
    assert issubclass(errors.RegionError, Exception)
    with pytest.raises(AttributeError):
        _ = errors.NothingLikeThis  # type: ignore[attr-defined]
    with pytest.raises(ValueError):
        ProtocolError("NOT_A_CODE")


def test_limits_are_upstreams_where_upstream_has_them() -> None:
    assert limits.FRAME_BYTES_MAX == 131072
    assert limits.NAME_BYTES_MAX == 256
    assert limits.TTL_DEFAULT == 16


def test_refusals_have_upstreams_members() -> None:
    told = system.unreachable("broadcast", Reason.QUEUE_FULL, "it reads too slowly")
    assert told == {
        "original_dst": "broadcast",
        "reason": "QUEUE_FULL",
        "retryable": True,
        "detail": "it reads too slowly",
    }
    assert system.ttl_exceeded("null", "router:x") == {"original_dst": "null", "last_hop": "router:x"}


def test_an_answer_to_a_body_without_meaning_quotes_what_it_can() -> None:
    body = b'{"routing":{"trace_id":"t-1","trace":1},"meta":{"message_id":9}}'
    for data, trace, number in ((body, "t-1", 9), (b"\xff", "", 0), (b"[]", "", 0), (b"[" * 5000, "", 0)):
        from skep.protocol.json_framing import decode_body

        answer = system.answer_to_body(
            data,
            "UNREACHABLE",
            system.unreachable("null", Reason.BAD_FRAME),
            source=b"r" * 16,
            destination=b"n" * 16,
        )
        message = decode_body(answer[4:])
        assert (message.trace_id, message.reply_to, message.verb) == (trace, number, "UNREACHABLE")
        assert message.payload == {"original_dst": "null", "reason": "BAD_FRAME", "retryable": False}
