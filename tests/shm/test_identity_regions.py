"""The regions of identity: ilks, tenants, channels, and the key of a channel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep_shm import (
    Change,
    ChangeKind,
    ChannelRecord,
    ChannelsReader,
    ChannelsWriter,
    IlkKind,
    IlkRecord,
    IlksReader,
    IlksWriter,
    RegionCode,
    RegionError,
    Registration,
    SealStatus,
    Subtype,
    TenantRecord,
    TenantsReader,
    TenantStatus,
    TenantsWriter,
    channel_key,
    hive_prefix,
    inspect,
)
from skep_shm.ilks import TEXT_BYTES_MAX
from skep_shm.segment import SHM_DIR, segment_names

SECRET = b"0123456789abcdef"


def key16(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]


def human(number: int) -> IlkRecord:
    return IlkRecord(
        key16(number),
        subtype=Subtype.EXTERNAL,
        registration=Registration.COMPLETE,
        tenant=key16(number % 7),
        roles=("customer",) * (number % 3),
        channel_kinds=("whatsapp", "email")[: number % 3],
    )


def agent(number: int) -> IlkRecord:
    """One with all fields, whose text goes on in further records."""
    return IlkRecord(
        key16(number),
        IlkKind.AGENT,
        Subtype.NONE,
        Registration.COMPLETE,
        SealStatus.VALID,
        key16(number % 7),
        key16(number + 1),
        number * 1000,
        number * 2000,
        f"AI.clerk{number}@test",
        ("support", "sales"),
        tuple(f"cap:answers/{each}" for each in range(number % 20)),
        (f"degree:0b5e3c8e-0000-4000-8000-{number:012d}/3",),
        ("http",) * (number % 2),
    )


def ilk(number: int) -> IlkRecord:
    return agent(number) if number % 5 == 0 else human(number)


def tenant(number: int) -> TenantRecord:
    return TenantRecord(key16(number), TenantStatus(number % 3), number)


def channel(number: int) -> ChannelRecord:
    return ChannelRecord(
        key16(number), key16(number + 1), key16(number % 7), ("whatsapp", "email")[number % 2]
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the three, in the same words."""

    writer: Any
    reader: Any
    make: Callable[[int], Any]
    change: Callable[[Any], Any]


KINDS = {
    "ilks": Kind(IlksWriter, IlksReader, ilk, lambda r: r._replace(registration=Registration.PARTIAL)),
    "tenants": Kind(
        TenantsWriter, TenantsReader, tenant, lambda r: r._replace(status=TenantStatus.SUSPENDED)
    ),
    "channels": Kind(ChannelsWriter, ChannelsReader, channel, lambda r: r._replace(ilk=bytes(15) + b"!")),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def filled(kind: Kind, root: Path, count: int = 100) -> Any:
    writer = kind.writer.create(root, "test", expected=count)
    assert writer.fill(kind.make(number) for number in range(count)) == count
    return writer


# -- all three ------------------------------------------------------------------------------------------------


@each_kind
def test_what_is_filled_is_found(clean_root: Path, kind: Kind) -> None:
    writer = filled(kind, clean_root)
    reader = kind.reader.attach(clean_root)
    assert sorted(reader.all()) == sorted(kind.make(number) for number in range(100))
    for number in range(100):
        assert reader.find(key16(number)) == kind.make(number)
    assert reader.find(key16(100)) is None
    assert inspect.check(clean_root) == []
    assert reader.changes(reader.revision) == []
    writer.close()


@each_kind
def test_a_change_is_visible_at_once_and_told(clean_root: Path, kind: Kind) -> None:
    writer = filled(kind, clean_root)
    reader = kind.reader.attach(clean_root)
    seen = reader.revision
    changed = kind.change(kind.make(1))
    slot = writer.put(changed)
    assert reader.find(key16(1)) == reader.get(slot) == changed
    assert reader.changes(seen) == [Change(seen + 1, slot, ChangeKind.UPDATED)]
    assert writer.remove(key16(1))
    assert not writer.remove(key16(1))
    assert reader.find(key16(1)) is None
    again = writer.put(kind.make(1))
    assert [change.kind for change in reader.changes(seen + 1)] == [ChangeKind.REMOVED, ChangeKind.ADDED]
    assert reader.get(again) == kind.make(1)
    assert writer.revision == reader.revision
    assert writer.statistics()["live"] == 100
    assert inspect.check(clean_root) == []
    writer.close()


@each_kind
def test_nothing_is_shown_before_it_is_filled(clean_root: Path, kind: Kind) -> None:
    writer = kind.writer.create(clean_root, "test")
    with pytest.raises(RegionError) as refusal:
        kind.reader.attach(clean_root)
    assert refusal.value.code is RegionCode.NOT_READY
    for early in (lambda: writer.put(kind.make(1)), lambda: writer.remove(key16(1))):
        with pytest.raises(RegionError, match=r"call fill\(\)"):
            early()
    assert writer.fill(()) == 0
    assert kind.reader.attach(clean_root).all() == []
    with pytest.raises(RuntimeError, match="filled already"):
        writer.fill(())
    writer.close()
    writer.close()


@each_kind
def test_of_two_records_with_one_key_the_later_counts(clean_root: Path, kind: Kind) -> None:
    writer = kind.writer.create(clean_root, "test")
    records = [kind.make(5), kind.make(6), kind.change(kind.make(5))]
    assert writer.fill(records) == 2
    assert kind.reader.attach(clean_root).find(key16(5)) == records[2]
    assert inspect.check(clean_root) == []
    writer.close()


@each_kind
def test_more_than_expected_grow_before_and_after_the_start(clean_root: Path, kind: Kind) -> None:
    writer = kind.writer.create(clean_root, "test", expected=10)
    writer.fill(kind.make(number) for number in range(1500))
    reader = kind.reader.attach(clean_root)
    for number in range(1500, 6000):
        writer.put(kind.make(number))
    assert all(reader.find(key16(number)) == kind.make(number) for number in range(6000))
    assert len(segment_names(hive_prefix(clean_root))) == 2
    assert inspect.check(clean_root) == []
    writer.close()


@pytest.mark.goal("G2")
@each_kind
def test_readers_keep_what_a_dead_writer_left_until_the_next_has_filled(root: Path, kind: Kind) -> None:
    first = filled(kind, root)
    reader = kind.reader.attach(root)
    seen = reader.revision
    first._owner.anchor.close()  # as death does: the lock is gone, everything else stays
    second = kind.writer.create(root, "test")
    assert len(reader.all()) == len(kind.reader.attach(root).all()) == 100
    second.fill(kind.make(number) for number in range(50, 60))
    assert sorted(reader.all()) == sorted(kind.make(number) for number in range(50, 60))
    assert reader.revision > seen
    assert reader.changes(seen) is None, "read everything again"
    second.close()
    assert inspect.list_regions(root) == []


@each_kind
def test_a_writer_that_fails_to_fill_leaves_what_was_there(root: Path, kind: Kind) -> None:
    filled(kind, root)._owner.anchor.close()
    second = kind.writer.create(root, "test")

    def broken() -> Any:
        yield kind.make(1)
        raise OSError("the database is gone")

    with pytest.raises(OSError, match="the database"):
        second.fill(broken())
    second.close()
    assert len(kind.reader.attach(root).all()) == 100
    third = filled(kind, root, 3)
    assert len(kind.reader.attach(root).all()) == 3
    third.close()


@each_kind
def test_a_second_writer_is_refused(clean_root: Path, kind: Kind) -> None:
    writer = filled(kind, clean_root, 3)
    with pytest.raises(RegionError) as refusal:
        kind.writer.create(clean_root, "test")
    assert refusal.value.code is RegionCode.BUSY
    assert len(kind.reader.attach(clean_root).all()) == 3
    writer.close()


@each_kind
def test_the_dump_shows_every_record(clean_root: Path, kind: Kind) -> None:
    writer = filled(kind, clean_root, 20)
    name = kind.reader.kind.name.lower()
    rows = inspect.dump(clean_root, name)[name]
    assert len(rows) == 20
    assert {row[kind.reader.key] for row in rows} == {key16(number).hex() for number in range(20)}
    writer.close()


# -- bounds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("ilks", human(1)._replace(ilk=b"short")),
        ("ilks", human(1)._replace(canonical=b"")),
        ("ilks", human(1)._replace(alias_until_ms=-1)),
        ("ilks", human(1)._replace(roles=("a\0b",))),
        ("tenants", tenant(1)._replace(tenant=b"short")),
        ("tenants", tenant(1)._replace(flags=1 << 32)),
        ("channels", channel(1)._replace(key=b"short")),
        ("channels", channel(1)._replace(tenant=b"")),
    ],
)
def test_a_value_of_the_wrong_form_is_refused_and_changes_nothing(
    clean_root: Path, kind: str, record: Any
) -> None:
    writer = filled(KINDS[kind], clean_root)
    before = writer.statistics(), writer.revision
    with pytest.raises(ValueError, match=r"bytes|out of range|zero|format|argument"):
        writer.put(record)
    assert (writer.statistics(), writer.revision) == before
    writer.close()


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("ilks", human(1)._replace(roles=("r",) * 256)),
        ("ilks", human(1)._replace(capabilities=("c" * TEXT_BYTES_MAX,))),
        ("channels", channel(1)._replace(kind="k" * 33)),
    ],
)
def test_a_text_beyond_its_bound_is_refused_and_changes_nothing(
    clean_root: Path, kind: str, record: Any
) -> None:
    writer = filled(KINDS[kind], clean_root)
    before = writer.statistics(), writer.revision
    with pytest.raises(RegionError) as refusal:
        writer.put(record)
    assert refusal.value.code is RegionCode.TOO_LONG
    assert (writer.statistics(), writer.revision) == before
    writer.close()


def test_the_longest_texts_come_back_whole(clean_root: Path) -> None:
    writer = IlksWriter.create(clean_root, "test")
    writer.fill(())
    reader = IlksReader.attach(clean_root)
    for size in (0, 28, 29, 30, 128, 129, TEXT_BYTES_MAX - 5):
        record = human(1)._replace(handler="é", roles=("r" * size,), degrees=("",), channel_kinds=())
        writer.put(record)
        assert reader.find(record.ilk) == record
    writer.put(human(1))
    assert reader.find(key16(1)) == human(1)
    assert writer.statistics()["live"] == 1
    assert inspect.check(clean_root) == []
    writer.close()


words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)
lists = st.lists(words, max_size=6).map(tuple)
numbers = st.integers(0, 2**64 - 1)
bytes16 = st.binary(min_size=16, max_size=16)
ilks = st.builds(
    IlkRecord,
    bytes16,
    st.sampled_from(IlkKind),
    st.sampled_from(Subtype),
    st.sampled_from(Registration),
    st.sampled_from(SealStatus),
    bytes16,
    bytes16,
    numbers,
    numbers,
    words,
    lists,
    lists,
    lists,
    lists,
)


def test_any_record_comes_back_as_it_was(clean_root: Path) -> None:
    writer = IlksWriter.create(clean_root, "test")
    writer.fill(())
    reader = IlksReader.attach(clean_root)

    @given(ilks)
    @settings(max_examples=200, deadline=None)
    def comes_back(record: IlkRecord) -> None:
        writer.put(record)
        assert reader.find(record.ilk) == record

    comes_back()
    assert inspect.check(clean_root) == []
    writer.close()


# -- the key of a channel -------------------------------------------------------------------------------------


def test_the_key_is_pinned() -> None:
    """A changed rule would make a stranger of everybody."""
    assert (
        channel_key(SECRET, "email", "Ana@Example.com ", key16(1)).hex() == "536b4ce8cf2fbacf146401adf4a0af8d"
    )


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("email", "ana@example.com", " ANA@Example.COM\n"),
        ("Email ", "straße@example.com", "STRASSE@example.com"),
        ("email", "jose\u0301@example.com", "josé@example.com"),
        ("whatsapp", "+54 9 11 5555-0101", "+5491155550101"),
        ("sms", "0049 (30) 5555.0101", "+493055550101"),
        ("http", "Session-7", "session-7"),
    ],
)
def test_what_is_one_address_has_one_key(kind: str, one: str, other: str) -> None:
    keys = {
        channel_key(SECRET, kind.lower().strip(), one, key16(1)),
        channel_key(SECRET, kind, other, key16(1)),
    }
    assert len(keys) == 1


def test_what_differs_has_another_key() -> None:
    triples = [
        ("email", "a", key16(1)),
        ("emai", "la", key16(1)),
        ("email", "a", key16(2)),
        ("email", "b", key16(1)),
    ]
    keys = {channel_key(SECRET, *triple) for triple in triples} | {channel_key(SECRET[::-1], *triples[0])}
    assert len(keys) == 5
    assert {len(key) for key in keys} == {16}


@pytest.mark.parametrize(
    ("secret", "tenant_id"), [(b"short", key16(1)), (b"x" * 65, key16(1)), (SECRET, b"")]
)
def test_a_secret_or_tenant_of_a_wrong_length_is_refused(secret: bytes, tenant_id: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        channel_key(secret, "email", "a@b", tenant_id)


def test_no_address_stands_in_shared_memory(clean_root: Path) -> None:
    address = "ana.perez@example.com"
    key = channel_key(SECRET, "email", address, key16(1))
    writer = ChannelsWriter.create(clean_root, "test")
    writer.fill([ChannelRecord(key, key16(2), key16(1), "email")])
    found = ChannelsReader.attach(clean_root).find(channel_key(SECRET, "email", address.upper(), key16(1)))
    assert found is not None
    assert found.ilk == key16(2)
    for path in SHM_DIR.glob(f"{hive_prefix(clean_root)[1:]}*"):
        text = path.read_bytes()
        assert b"email" in text or path.name.endswith("channels")
        assert address.encode() not in text
        assert b"perez" not in text
    writer.close()
