"""Who is believed: Authentication-Results as servers write them, and as attackers do."""

from __future__ import annotations

import random
import time

import pytest

from nodes.letters import letter
from skep_nodes.io.mail_letter import read_letter
from skep_nodes.io.mail_trust import judge, read_results
from support.fuzzing import SECONDS_MAX, mutated

MX = "mx.hive.test"
DOMAIN = "customer.example"

PROVING = [
    f"{MX}; dmarc=pass header.from={DOMAIN}",
    f"{MX} 1; spf=fail smtp.mailfrom=x.example; dmarc = pass (p=reject dis=none) header.from = Customer.Example",
    f"MX.hive.test; dkim=pass header.d={DOMAIN} header.s=s1 header.b=abc; dmarc=none",
    f'{MX}; dkim=fail reason="bad; body" header.d={DOMAIN}; dkim=pass header.d={DOMAIN}',
    f"{MX};\r\n\tdkim/1=pass (2048-bit key; \\) secure) header.i=@{DOMAIN} header.d={DOMAIN}",
]
NOT_PROVING = [
    "",
    MX,
    f"{MX}; none",
    f"other.test; dmarc=pass header.from={DOMAIN}",
    f"{MX}.evil.example; dmarc=pass header.from={DOMAIN}",
    f"evil.example ({MX}); dmarc=pass header.from={DOMAIN}",
    f'"{MX}; dmarc=pass header.from={DOMAIN}; x="',
    f"{MX}; dmarc=fail header.from={DOMAIN}",
    f"{MX}; dmarc=pass",
    f"{MX}; dmarc=pass header.from=evil.example",
    f"{MX}; dmarc=pass header.from=evil.example header.from={DOMAIN}",
    f"{MX}; dmarc=pass header.from=evil.example; dmarc=pass header.from={DOMAIN}",
    f"{MX}; dmarc=fail header.from={DOMAIN}; dkim=pass header.d={DOMAIN}",
    f"{MX}; dmarc=temperror header.from={DOMAIN}; dmarc=pass header.from={DOMAIN}",
    f"{MX}; spf=pass smtp.mailfrom={DOMAIN}",
    f"{MX}; dkim=pass header.d=evil.example header.i=@{DOMAIN}",
    f"{MX}; dkim=pass header.d=sub.{DOMAIN}",
    f"{MX}; dkim=pass header.d=example",
    f"{MX}; spf=pass smtp.mailfrom=\"a; dmarc=pass header.from={DOMAIN}\"",
    f"{MX}; spf=pass (; dmarc=pass header.from={DOMAIN}",
    f"{MX}; spf=pass (a) b); dmarc=pass header.from={DOMAIN} (",
    f"{MX}; xdmarc=pass header.from={DOMAIN}",
    f"{MX}; dmarc=passed header.from={DOMAIN}",
    f"{MX}; " + "x=y; " * 100 + f"dmarc=pass header.from={DOMAIN}",
    f"{MX}; dmarc=pass header.from={DOMAIN}; x=" + "y" * 9_000,
]  # fmt: skip


@pytest.mark.parametrize("value", PROVING)
def test_a_proven_sender(value: str) -> None:
    assert judge([value], MX, DOMAIN).proven


@pytest.mark.goal("G14")
@pytest.mark.parametrize("value", NOT_PROVING)
def test_a_sender_that_is_not_proven(value: str) -> None:
    verdict = judge([value], MX, DOMAIN)
    assert not verdict.proven
    assert verdict.why


def test_without_a_name_of_the_server_nothing_is_proven() -> None:
    assert not judge(PROVING, "", DOMAIN).proven


def test_one_field_that_cannot_be_read_spoils_the_others() -> None:
    assert not judge([PROVING[0], "x (("], MX, DOMAIN).proven


def test_two_fields_of_the_server_count_together() -> None:
    assert judge([f"{MX}; spf=pass", PROVING[0]], MX, DOMAIN).proven
    assert not judge([f"{MX}; dmarc=fail", PROVING[0]], MX, DOMAIN).proven


@pytest.mark.goal("G14")
def test_only_the_fields_on_top_count() -> None:
    own, forged = f"Authentication-Results: {MX}; dmarc=fail\r\n", f"Authentication-Results: {PROVING[0]}\r\n"
    body = letter(sender=f"a@{DOMAIN}")
    for data, count in (
        (own.encode() + body, 1),
        (own.encode() + b"Received: x\r\n" + forged.encode() + body, 1),
        (own.encode() + forged.encode() + body, 2),
    ):
        results = read_letter(data).results
        assert len(results) == count
        assert not judge(results, MX, DOMAIN).proven


@pytest.mark.goal("G13")
def test_mutated_results_prove_no_other_domain_and_take_no_time() -> None:
    random_ = random.Random(5)
    for _ in range(4_000):
        value = mutated(random_.choice(PROVING + NOT_PROVING).encode(), random_).decode("utf-8", "replace")
        started = time.thread_time()
        verdict = judge([value], MX, "victim.example")
        assert time.thread_time() - started < SECONDS_MAX
        assert not verdict.proven


def test_what_was_found_is_read() -> None:
    read = read_results(f"{MX}; dkim=pass (ok) header.d=X.example; spf=none")
    assert read is not None
    assert read[0] == MX
    assert [each.method for each in read[1]] == ["dkim", "spf"]
    assert read[1][0].properties == {"header.d": "x.example"}
