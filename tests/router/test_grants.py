"""Who may be whom: deny by default, what no grant can give away, and who owns which system verb."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep_router.grants import (
    ANYBODY,
    NO_ID,
    NOBODY,
    VERB_OWNERS,
    Grants,
    IlkRule,
    changed_uids,
    tenant_allows,
)
from skep_shm import Grant

OWN, OTHER = 1000, 2000
ILK_1, ILK_2 = b"\x01" * 16, b"\x02" * 16
ACME, BETA = b"\x0a" * 16, b"\x0b" * 16


def grant(
    pattern: str, mode: int = 0, ilk: bytes = NO_ID, tenant: bytes = NO_ID, kinds: str = "", uid: int = OTHER
) -> Grant:
    return Grant(uid, pattern, mode, ilk, tenant, kinds)


def hive(*grants: Grant) -> Grants:
    table = Grants(OWN)
    table.configure(grants)
    return table


# -- names ---------------------------------------------------------------------------------------------------------


def test_the_own_account_may_hold_every_name() -> None:
    assert all(hive().may_hold(OWN, name) for name in ("AI.x@h", "IO.x@h", "SY.admin@h", "RT.main@h"))


def test_a_stranger_may_hold_nothing() -> None:
    assert not any(hive().may_hold(OTHER, name) for name in ("AI.x@h", "X.y@h", "SY.admin@h"))


@pytest.mark.parametrize(
    ("pattern", "name", "granted"),
    [
        ("AI.x", "AI.x@h", True),
        ("AI.x", "AI.x@far", True),
        ("AI.x@h", "AI.x@h", True),
        ("AI.x@h", "AI.x@far", False),
        ("AI.*", "AI.x.y@h", True),
        ("AI.*", "AIX.y@h", False),
        ("AI.x", "AI.xy@h", False),
        ("*@h", "IO.x@h", True),
        ("IO.*.chat", "IO.web.chat@h", True),
        ("", "AI.x@h", False),
    ],
)
def test_a_grant_is_a_glob(pattern: str, name: str, granted: bool) -> None:
    assert hive(grant(pattern)).may_hold(OTHER, name) is granted
    assert not hive(grant(pattern)).may_hold(OTHER + 1, name)


@pytest.mark.goal("G16")
def test_no_grant_reaches_a_system_name() -> None:
    table = hive(grant("*"), grant("SY.*"), grant("RT.*@h"), grant("SY.admin@h"))
    chance = random.Random(16)
    for _ in range(10_000):
        name = f"{chance.choice(['SY', 'RT'])}.{chance.randbytes(4).hex()}@h"
        assert not table.may_hold(OTHER, name)
    assert not table.may_hold(OTHER, "SY.admin@h")


def test_a_ticket_opens_system_names_and_nothing_else() -> None:
    assert hive().may_hold(OTHER, "SY.threads@h", ticket_ok=True)
    assert not hive().may_hold(OTHER, "AI.x@h", ticket_ok=True)


def test_a_new_configuration_replaces_the_old_one() -> None:
    table = hive(grant("AI.x"))
    table.configure((grant("AI.y"),))
    assert not table.may_hold(OTHER, "AI.x@h")
    assert table.may_hold(OTHER, "AI.y@h")


def test_whose_nodes_a_change_concerns() -> None:
    kept = grant("AI.x")
    assert changed_uids((kept, grant("AI.y", uid=7)), (kept, grant("AI.z", uid=8))) == {7, 8}
    assert changed_uids((kept,), (kept,)) == set()


# -- interlocutors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "name", "expected"),
    [
        (OWN, "IO.http@h", ANYBODY),
        (OWN, "SY.admin@h", ANYBODY),
        (OWN, "AI.desk@h", NOBODY),
        (OWN, "WF.flow@h", NOBODY),
        (OWN, "X.other@h", NOBODY),
        (OTHER, "IO.http@h", NOBODY),
        (OTHER, "SY.admin@h", NOBODY),
    ],
)
def test_without_a_grant(uid: int, name: str, expected: IlkRule) -> None:
    assert hive().ilk_rule(uid, name) == expected


def test_a_grant_lists_ilks_and_grants_add_up() -> None:
    table = hive(grant("AI.*", 1, ILK_1), grant("AI.x", 1, ILK_2), grant("AI.y", 1, b"\x03" * 16))
    rule = table.ilk_rule(OTHER, "AI.x@h")
    assert rule.listed == {ILK_1, ILK_2}
    assert [Grants.may_speak(rule, ilk) for ilk in (ILK_1, ILK_2, b"\x03" * 16, None)] == [True, True, False, True]


@pytest.mark.goal("G14")
def test_any_is_for_channels_only() -> None:
    table = hive(grant("*", 2))
    assert Grants.may_speak(table.ilk_rule(OTHER, "IO.chat@h"), ILK_1)
    assert not Grants.may_speak(table.ilk_rule(OTHER, "AI.x@h"), ILK_1)
    assert not Grants.may_speak(table.ilk_rule(OTHER, "WF.x@h"), ILK_1)


def test_an_explicit_grant_of_the_own_account_takes_the_place_of_its_default() -> None:
    table = hive(grant("IO.http", 1, ILK_1, uid=OWN))
    assert table.ilk_rule(OWN, "IO.http@h") == IlkRule(listed=frozenset({ILK_1}))
    assert table.ilk_rule(OWN, "IO.other@h") == ANYBODY


def test_channel_kinds_narrow_unless_one_grant_has_every_kind() -> None:
    narrow = hive(grant("IO.*", 2, kinds="whatsapp, sms"), grant("IO.x", 2, kinds="mail"))
    assert narrow.ilk_rule(OTHER, "IO.x@h").channel_kinds == {"whatsapp", "sms", "mail"}
    wide = hive(grant("IO.*", 2, kinds="whatsapp"), grant("IO.x", 2))
    assert wide.ilk_rule(OTHER, "IO.x@h") == ANYBODY


def test_a_listed_zero_is_nobody() -> None:
    assert hive(grant("AI.x", 1, NO_ID)).ilk_rule(OTHER, "AI.x@h") == NOBODY


@pytest.mark.goal("G14")
@given(st.binary(min_size=16, max_size=16))
def test_nobody_speaks_for_an_ilk_that_was_not_granted(ilk: bytes) -> None:
    table = hive(grant("AI.x", 1, ILK_1))
    assert Grants.may_speak(table.ilk_rule(OTHER, "AI.x@h"), ilk) is (ilk == ILK_1)
    assert not Grants.may_speak(table.ilk_rule(OWN, "AI.x@h"), ilk)
    assert not Grants.may_speak(None, ilk)


# -- tenants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "allowed"),
    [
        (ACME, ACME, True),
        (ACME, BETA, False),
        (NO_ID, BETA, True),
        (ACME, NO_ID, True),
        (b"", ACME, True),
        (NO_ID, b"", True),
    ],
)
def test_tenants(a: bytes, b: bytes, allowed: bool) -> None:
    assert tenant_allows(a, b) is allowed
    assert tenant_allows(b, a) is allowed


def test_the_narrowest_grant_names_the_tenant() -> None:
    table = hive(grant("AI.*", tenant=ACME), grant("AI.beta.*", tenant=BETA), grant("AI.beta.x.y"))
    assert table.tenant_of(OTHER, "AI.x@h") == ACME
    assert table.tenant_of(OTHER, "AI.beta.x@h") == BETA
    assert table.tenant_of(OTHER, "AI.beta.x.y@h") == BETA
    assert table.tenant_of(OTHER, "IO.x@h") == NO_ID
    assert table.tenant_of(OWN, "AI.x@h") == NO_ID


# -- system verbs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "owner"),
    [
        ("CONFIG_CHANGED", "SY.admin"),
        ("CONFIG_CHANGED", "SY.orchestrator"),
        ("CONFIG_CHANGED", "SY.cli.4711"),
        ("OPA_RELOAD", "SY.opa.rules"),
        ("TIME_SYNC", "SY.clock"),
        ("CONFIG_SET", "SY.architect"),
        ("THREAD_BIND_RESPONSE", "SY.threads"),
        ("UNREACHABLE", "RT.main"),
    ],
)
def test_owners_may_say_their_verbs(verb: str, owner: str) -> None:
    assert Grants.may_emit(f"{owner}@h", verb)


@pytest.mark.parametrize("verb", sorted(VERB_OWNERS))
@pytest.mark.parametrize("name", ["AI.x@h", "IO.http@h", "WF.SY.admin@h", "SYX.admin@h", "AI.SY.threads@h"])
def test_others_may_not(verb: str, name: str) -> None:
    assert not Grants.may_emit(name, verb)


def test_a_system_node_may_not_say_anothers_verb() -> None:
    assert not Grants.may_emit("SY.timer@h", "CONFIG_CHANGED")
    assert not Grants.may_emit("SY.client@h", "CONFIG_CHANGED")
    assert not Grants.may_emit("SY.admin@h", "OPA_RELOAD")
    assert not Grants.may_emit("SY.opa.rules.x@h", "OPA_RELOAD")


@pytest.mark.parametrize("verb", ["ECHO", "CONFIG_GET", "CONFIG_RESPONSE", "NODE_STATUS_GET", "THREAD_BIND", "NEW"])
def test_verbs_that_ask_are_open(verb: str) -> None:
    assert Grants.may_emit("AI.x@h", verb)
