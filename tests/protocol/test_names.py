"""Names, patterns and thread ids."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.strategies import names
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import ProtocolError
from skep.protocol.names import (
    EXACT,
    GLOB,
    PREFIX,
    base_of,
    compile_pattern,
    fnv1a64,
    glob_match,
    hive_of,
    is_name,
    is_system,
    kind_of,
    matches,
    matches_target,
    parse_hive,
    parse_name,
    pattern_rank,
    split_wildcard,
    thread_id_channel,
    thread_id_native,
    thread_id_pair,
    thread_id_v3,
)


@given(names)
def test_a_full_name_is_itself(name: str) -> None:
    assert parse_name(name, "other") == name
    assert is_name(name)
    assert base_of(name) + "@" + hive_of(name) == name
    assert kind_of(name) in {"AI", "IO", "WF", "SY", "RT"}
    assert is_system(name) == name.startswith(("SY.", "RT."))


def test_a_base_name_gets_the_hive() -> None:
    assert parse_name("AI.echo", "hive") == "AI.echo@hive"
    assert parse_name("X9.tool_1.a-b", "h.example") == "X9.tool_1.a-b@h.example"
    assert not is_name("AI.echo")
    assert not is_name("sy.x@hive")


@pytest.mark.goal("G16")
@pytest.mark.parametrize(
    "name",
    [
        "",
        "AI",
        "AI.",
        ".AI",
        "AI..echo",
        "AI.echo.",
        "sy.config",
        "Sy.config",
        "sY.config",
        "rt.main",
        "ai.echo",
        "SY .config",
        "SY.config ",
        " SY.config",
        "SY\t.config",
        "SY.config\n",
        "SY.con\x00fig",
        "\u0405Y.config",  # Cyrillic Dze
        "S\u03a5.config",  # Greek Upsilon
        "\uff33\uff39.config",  # fullwidth
        "SY\u2024config",  # one dot leader
        "SY.config\u200b",  # zero width space
        "SY.c\u043enfig",  # Cyrillic o
        "SY.caf\u00e9",
        "SY.con*",
        "AI.a/b",
        "AI.a:b",
        "AI.echo@",
        "AI.echo@hive@other",
        "AI.echo@hi ve",
        "AI.echo@.hive",
        "AI.echo@hive.",
        "AI.echo@hi..ve",
        "AI.echo@-hive",
        "AI.echo@*",
        "AI." + ".".join("abcdefghij"),
        "AI." + "x" * 254,
        "AI.echo@" + "h" * 65,
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_name(name, "hive")
    assert caught.value.code is ErrorCode.NAME_INVALID


def test_the_largest_names_are_taken() -> None:
    assert parse_name("AI." + "x" * 248 + "@hive", "hive")
    assert parse_name("AI." + ".".join("abcdefghi"), "hive")
    assert parse_hive("h" * 64) == "h" * 64
    with pytest.raises(ProtocolError):
        parse_name("AI." + "x" * 249, "hive")


@pytest.mark.parametrize(
    ("pattern", "kind", "name", "expected"),
    [
        ("AI.echo@hive", EXACT, "AI.echo@hive", True),
        ("AI.echo@hive", EXACT, "AI.echo@hive2", False),
        ("AI.echo.*", PREFIX, "AI.echo.one@hive", True),
        ("AI.echo.*", PREFIX, "AI.echoes@hive", True),
        ("AI.echo", PREFIX, "AI.ech@hive", False),
        ("AI.*@hive", GLOB, "AI.a.b@hive", True),
        ("AI.*@hive", GLOB, "AI.a@hive2", False),
        ("*", GLOB, "anything", True),
        ("*", GLOB, "", True),
        ("a*a", GLOB, "a", False),
        ("a*b*c", GLOB, "a1b2c", True),
        ("a*b*c", GLOB, "a1c2b", False),
        ("**x**", GLOB, "axb", True),
        ("AI.echo@hive", GLOB, "AI.echo@hive", True),
        ("AI.e", GLOB, "AI.echo@hive", False),
    ],
)
def test_patterns(pattern: str, kind: int, name: str, expected: bool) -> None:
    assert matches(pattern, kind, name) is expected
    assert compile_pattern(pattern, kind)(name) is expected


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
def test_a_glob_means_what_a_regular_expression_would(pattern: str, text: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert glob_match(pattern, text) == (re.fullmatch(expression, text) is not None)


@pytest.mark.goal("G13")
def test_a_hostile_glob_costs_nothing() -> None:
    started = time.thread_time()
    assert not glob_match("*a" * 128, "a" * 255 + "b")
    assert not glob_match("*" * 250 + "b", "a" * 256)
    assert time.thread_time() - started < 0.05


def test_the_filter_of_a_broadcast_is_a_glob_only_with_a_star() -> None:
    assert matches_target("AI.*", "AI.echo@hive")
    assert matches_target("AI.echo@hive", "AI.echo@hive")
    assert not matches_target("AI.echo", "AI.echo@hive")


@pytest.mark.parametrize(
    ("pattern", "kind", "rank"), [("AI.a@h", EXACT, 6), ("AI.a.*", PREFIX, 4), ("*AI.*", GLOB, 3)]
)
def test_what_counts_for_longest_match(pattern: str, kind: int, rank: int) -> None:
    assert pattern_rank(pattern, kind) == rank


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [("", EXACT), ("x" * 257, GLOB), ("a b", GLOB), ("é", EXACT), ("a\n", EXACT), ("a", 3)],
)
def test_patterns_that_are_refused(pattern: str, kind: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        compile_pattern(pattern, kind)
    assert caught.value.code is ErrorCode.PATTERN_INVALID


@pytest.mark.parametrize(
    ("destination", "base"),
    [("AI.echo@*", "AI.echo"), ("AI.*@*", "AI.*"), ("AI.echo@hive", None), ("a@b@*", None)],
)
def test_wildcard_destinations(destination: str, base: str | None) -> None:
    assert split_wildcard(destination) == base


def test_thread_ids_v2_are_upstreams() -> None:
    native = thread_id_native("slack", "T123", "C789", "171234.567")
    channel = thread_id_channel("slack", None, "C789")
    pair = thread_id_pair("email", "tenant-a", "alice@example.com", "bob@example.com")
    assert native == "thread:sha256:19af8f2d874beae6bc654f7b31aa330b4b2b23fef950364aec4a1a83b460392f"
    assert channel == "thread:sha256:c6861e30a967b85ceec4044a6fd47bef28114c05f511d326a0a48bfdc24b6e3d"
    assert pair == "thread:sha256:0329b888a28eb098f2cf39a4ccdf08f25468a960c5647a75520fe9442667b71c"


def test_thread_ids_v2_trim_lower_and_sort() -> None:
    assert thread_id_channel(" SLACK ", "  ", " C789 ") == thread_id_channel("slack", None, "C789")
    assert thread_id_channel("SLACK", "-", "c") == thread_id_channel("slack", None, "c")
    assert thread_id_channel("slack", None, "C") != thread_id_channel("slack", None, "c")
    assert thread_id_channel("SLÄCK", None, "c") != thread_id_channel("släck", None, "c"), "ASCII only"
    assert thread_id_pair("sms", "e", " b", "a ") == thread_id_pair("sms", "e", "a", "b")


@pytest.mark.parametrize("parts", [("", "e", "c"), ("slack", "e", " ")])
def test_a_blank_part_of_a_thread_id_is_refused(parts: tuple[str, str, str]) -> None:
    with pytest.raises(ProtocolError) as caught:
        thread_id_channel(*parts)
    assert caught.value.code is ErrorCode.THREAD_INVALID


def test_thread_ids_v3_cannot_be_made_to_meet() -> None:
    """v2 joins with `|`, so a part that holds one can imitate two parts; v3 counts bytes."""
    assert thread_id_native("s", "e", "a|native_thread_id=b", "c") == thread_id_native(
        "s", "e", "a", "b|native_thread_id=c"
    )
    assert thread_id_v3("t", "k", "a|b", "c") != thread_id_v3("t", "k", "a", "b|c")
    assert thread_id_v3("t", "k", "ab") != thread_id_v3("t", "k", "a", "b")
    assert thread_id_v3("tenant-a", "k", "x") != thread_id_v3("tenant-b", "k", "x")
    assert thread_id_v3("tnt:1", "sms", "+1", "+2") == ("thread:sha256:" + V3_VECTOR), (
        "a fixed vector: ids are stored, so they never change"
    )
    with pytest.raises(ProtocolError):
        thread_id_v3("", "k")


V3_VECTOR = "6a35e2dd90be440f23e1c8459f88a6d482cf47e77e62c133d3d3a93db7a09885"


def test_fnv1a64() -> None:
    assert fnv1a64(b"SY.test") == 0x3A77F8C8E5EC1C3D
    assert fnv1a64(b"") == 0xCBF29CE484222325
