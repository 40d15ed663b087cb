"""Layouts: sizes and offsets are pinned, and everything printed from them is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import skep_shm
from skep_shm import cheader, docs
from skep_shm.layout import Field, Layout, pad, raw, u8, u16, u32, u64
from skep_shm.layouts import (
    ANCHOR,
    BANK,
    BINDING,
    CHANGE,
    CHANNEL,
    GRANT,
    HEADER,
    ILK,
    LAYOUTS,
    LIMIT,
    MAGIC,
    MORE,
    NODE,
    POLICY,
    RECORD,
    ROUTE,
    TENANT,
    VERSION,
    VPN_RULE,
)
from skep_shm.words import VALUE_MAX, seal, unseal
from support.hives import REPO, environment

PACKAGE = Path(skep_shm.__file__).parent


def test_sizes_are_pinned() -> None:
    sizes = {layout.name: layout.size for layout in LAYOUTS}
    assert sizes == {
        "anchor": 64,
        "segment_header": 480,
        "node": 128,
        "binding": 192,
        "more": 24,
        "change": 16,
        "bank": 40,
        "route": 40,
        "vpn_rule": 16,
        "grant": 56,
        "limit": 16,
        "record": 320,
        "policy": 32,
        "ilk": 128,
        "tenant": 48,
        "channel": 112,
    }


@pytest.mark.parametrize(
    ("layout", "field", "offset"),
    [
        (ANCHOR, "check", 36),
        (ANCHOR, "generation", 40),
        (ANCHOR, "revision", 48),
        (ANCHOR, "heartbeat", 56),
        (HEADER, "size_bytes", 24),
        (HEADER, "owner_pid", 36),
        (HEADER, "capacity", 64),
        (HEADER, "records_offset", 80),
        (HEADER, "hash_multiplier", 104),
        (HEADER, "router_uuid", 120),
        (HEADER, "check", 460),
        (HEADER, "high_water", 464),
        (NODE, "state", 12),
        (NODE, "uuid", 24),
        (NODE, "text", 92),
        (NODE, "check", 124),
        (BINDING, "thread", 24),
        (BINDING, "lease_until_ns", 72),
        (BINDING, "check", 188),
        (MORE, "owner", 20),
        (CHANGE, "what", 8),
        (BANK, "check", 36),
        (ROUTE, "metric", 20),
        (VPN_RULE, "vpn_id", 8),
        (GRANT, "ilk", 16),
        (LIMIT, "name_at", 8),
        (RECORD, "trace_id", 32),
        (RECORD, "source_name", 88),
        (RECORD, "check", 316),
        (POLICY, "check", 28),
        (ILK, "ilk", 24),
        (ILK, "alias_until_ms", 72),
        (ILK, "text", 92),
        (ILK, "check", 124),
        (TENANT, "tenant", 24),
        (TENANT, "check", 44),
        (CHANNEL, "key", 24),
        (CHANNEL, "text", 72),
        (CHANNEL, "check", 108),
    ],
)
def test_offsets_are_pinned(layout: Layout, field: str, offset: int) -> None:
    """A changed offset is a new layout version; change VERSION with this table."""
    assert (VERSION, layout.offset(field)) == (1, offset)


def test_offsets_follow_from_the_fields() -> None:
    layout = Layout("x", "X", (u32("a"), u16("b"), u8("c"), pad("d", 1), raw("e", 8), u64("f")), 24)
    assert [layout.offset(name) for name in "abcef"] == [0, 4, 6, 8, 16]
    packed = layout.struct.pack(1, 2, 3, b"eight by", 5)
    assert layout.unpack(packed) == {"a": 1, "b": 2, "c": 3, "e": b"eight by", "f": 5}
    assert layout.only("b", "f").unpack(packed) == (2, 5)


@pytest.mark.parametrize(
    ("fields", "size", "why"),
    [
        ((u8("a"), u32("b"), pad("c", 3)), 8, "not aligned"),
        ((u32("a"),), 8, "add up to 4"),
        ((u32("a"),), 4, "times 8"),
    ],
)
def test_a_layout_that_c_would_pad_is_refused(fields: tuple[Field, ...], size: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Layout("x", "X", fields, size)


def test_magic_reads_as_text() -> None:
    assert MAGIC.to_bytes(8, "little") == b"SKEPSHM1"


@pytest.mark.goal("G4")
def test_any_flipped_bit_of_a_sealed_word_is_noticed() -> None:
    for value in [0, 1, VALUE_MAX, *(1 << bit for bit in range(48))]:
        for salt in (0, 0xBEEF):
            word = seal(value, salt)
            assert unseal(word, salt) == value
            assert all(unseal(word ^ 1 << bit, salt) is None for bit in range(64))
    assert unseal(0) is None, "a zeroed page must not read as sealed zero"


def test_the_tables_in_the_document_are_up_to_date() -> None:
    text = (REPO / "docs" / "shm.md").read_text()
    assert docs.updated(text) == text, "run: python -m skep_shm docs docs/shm.md"


def test_the_c_header_is_up_to_date() -> None:
    assert (PACKAGE / "skep_shm.h").read_text() == cheader.text(), (
        "run: python -m skep_shm header > skep_shm.h"
    )


@pytest.mark.parametrize(
    ("argument", "expected"), [("header", cheader.text()), ("docs", docs.tables() + "\n")]
)
def test_the_command_prints_them(argument: str, expected: str) -> None:
    argv = [sys.executable, "-m", "skep_shm", argument]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == expected


def test_the_command_refuses_anything_else(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "skep_shm", "nonsense"]
    assert subprocess.run(argv, env=environment(), capture_output=True, check=False).returncode == 2
    with pytest.raises(ValueError, match="no markers"):
        docs.updated("# a document without markers")
