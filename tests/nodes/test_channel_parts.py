"""The small parts of the channels: duplicates, idempotency, lanes, mailbox, store, settings, secrets, context."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.protocol import limits as protocol_limits
from skep_nodes.io import context, settings
from skep_nodes.io.context import Inbound, canonical, cut, io_context
from skep_nodes.io.dedup import Dedup, Seen
from skep_nodes.io.idempotency import Exchanges, KeyReused, StoreFull
from skep_nodes.io.lanes import Lanes
from skep_nodes.io.mailbox import Mailbox
from skep_nodes.io.settings import SettingsError
from skep_nodes.io.store import ChannelStore
from skep_nodes.io.text import text_payload, words_of
from support.wait import eventually_async

# Duplicates


def test_an_event_is_a_duplicate_only_after_its_send_succeeded() -> None:
    dedup = Dedup()
    assert dedup.begin(("t", "1"), 0.0) is Seen.NEW
    assert dedup.begin(("t", "1"), 0.0) is Seen.PENDING
    dedup.failed(("t", "1"))
    assert dedup.begin(("t", "1"), 1.0) is Seen.NEW
    dedup.done(("t", "1"), 1.0)
    assert dedup.begin(("t", "1"), 2.0) is Seen.DONE


def test_two_tenants_with_one_id_never_shadow_each_other() -> None:
    dedup = Dedup()
    dedup.begin(("tenant-a", "1"), 0.0)
    dedup.done(("tenant-a", "1"), 0.0)
    assert dedup.begin(("tenant-b", "1"), 0.0) is Seen.NEW


def test_duplicates_are_forgotten_by_age_and_number() -> None:
    dedup = Dedup(entries_max=2, keep_s=10)
    for number in range(3):
        dedup.begin((str(number),), 0.0)
        dedup.done((str(number),), 0.0)
    assert len(dedup) == 2
    assert dedup.begin(("0",), 1.0) is Seen.NEW
    dedup.failed(("0",))
    assert dedup.begin(("2",), 11.0) is Seen.NEW


# Idempotency


async def test_one_exchange_for_one_key() -> None:
    exchanges: Exchanges[int] = Exchanges()
    runs: list[int] = []

    async def run() -> int:
        runs.append(1)
        return len(runs)

    first = exchanges.join(("a", "k"), b"body", 0.0, run)
    assert exchanges.join(("a", "k"), b"body", 1.0, run) is first
    assert await first == 1
    with pytest.raises(KeyReused):
        exchanges.join(("a", "k"), b"other", 1.0, run)
    assert await exchanges.join(("b", "k"), b"other", 1.0, run) == 2  # another caller's key is another key
    assert await exchanges.join(("a", "k"), b"body", 5000.0, run) == 3  # too old to count
    exchanges.forget(("b", "k"))
    assert await exchanges.join(("b", "k"), b"other", 1.0, run) == 4


async def test_exchanges_are_bounded_and_a_running_one_is_never_dropped() -> None:
    exchanges: Exchanges[None] = Exchanges(entries_max=2)
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async def nothing() -> None:
        return None

    running = exchanges.join(("1",), b"", 0.0, wait)
    await exchanges.join(("2",), b"", 0.0, nothing)
    exchanges.join(("3",), b"", 0.0, wait)
    assert len(exchanges) == 2
    assert exchanges.join(("1",), b"", 0.0, wait) is running
    with pytest.raises(StoreFull):
        exchanges.join(("4",), b"", 0.0, wait)
    gate.set()
    await running


# Lanes


async def test_a_lane_keeps_order_and_a_slow_one_holds_up_no_other() -> None:
    lanes, done, gate = Lanes(), [], asyncio.Event()

    async def slow() -> None:
        await gate.wait()
        done.append("slow")

    def quick(name: str) -> object:
        async def work() -> None:
            done.append(name)

        return work

    assert lanes.put("a", slow)
    assert lanes.put("a", quick("a2"))  # type: ignore[arg-type]
    assert lanes.put("b", quick("b"))  # type: ignore[arg-type]
    await eventually_async(lambda: done == ["b"])
    gate.set()
    await eventually_async(lambda: done == ["b", "slow", "a2"])
    await lanes.close()
    assert lanes.waiting == 0


async def test_lanes_refuse_past_their_bounds_and_survive_failing_work() -> None:
    lanes, gate = Lanes(waiting_max=3, lane_max=2), asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async def fail() -> None:
        raise ValueError("no")

    assert lanes.put("a", wait)
    await eventually_async(lambda: lanes.waiting == 0)
    assert lanes.put("a", fail)
    assert lanes.put("a", wait)
    assert not lanes.put("a", wait)  # the lane is full
    assert lanes.put("b", wait)
    assert not lanes.put("c", wait)  # all are
    gate.set()
    await eventually_async(lambda: lanes.counters == {"done": 3, "refused": 2, "failed": 1})


# Mailbox


async def test_the_mailbox_numbers_answers_and_waits_for_one() -> None:
    mailbox = Mailbox(answers_max=2)
    waiting = asyncio.create_task(mailbox.wait_after("t", 0, 5))
    await asyncio.wait({waiting}, timeout=0)
    mailbox.add("t", {"text": "1"}, 10)
    assert await waiting == [{"number": 1, "text": "1"}]
    mailbox.add("t", {"text": "2"}, 10)
    mailbox.add("t", {"text": "3"}, 10)
    assert [each["number"] for each in mailbox.after("t", 0)] == [2, 3]
    assert (mailbox.dropped, mailbox.bytes_held) == (1, 20)
    assert await mailbox.wait_after("other", 0, 0.01) == []


def test_the_mailbox_is_bounded_in_conversations_and_bytes() -> None:
    mailbox = Mailbox(conversations_max=2, bytes_max=100)
    for name in ("a", "b", "c"):
        mailbox.add(name, {}, 10)
    assert mailbox.after("a", 0) == []
    mailbox.add("d", {}, 95)
    assert mailbox.bytes_held == 95


# Store


def test_the_store_survives_its_process_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "io.sqlite"
    store = ChannelStore(path)
    store.remember("thread", {"to": "34600"}, 1)
    assert store.add_callback("d1", "i", b"{}", 5)
    assert store.add_callback("d1", "i", b"again", 5)
    store.close()
    again = ChannelStore(path)
    assert again.target("thread") == {"to": "34600"}
    assert again.target("other") is None
    assert [(each.delivery_id, each.body, each.attempts) for each in again.due_callbacks(5, 9)] == [
        ("d1", b"{}", 0)
    ]
    again.postpone("d1", 70)
    assert again.due_callbacks(69, 9) == []
    assert again.next_due_ms(5) == 70
    again.drop_callback("d1")
    assert again.next_due_ms(0) is None
    again.close()
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


def test_the_store_is_bounded() -> None:
    store = ChannelStore(None, targets_max=2, callbacks_max=1)
    for number in range(3):
        store.remember(f"t{number}", {"n": str(number)}, number)
    store.remember("t1", {"n": "new"}, 9)
    assert [store.target(f"t{number}") for number in range(3)] == [None, {"n": "new"}, {"n": "2"}]
    assert store.add_callback("a", "i", b"", 0)
    assert not store.add_callback("b", "i", b"", 0)


# Settings and secrets


@dataclass(frozen=True, slots=True)
class Inner:
    url: str
    tries: int = 3


@dataclass(frozen=True, slots=True)
class Outer:
    name: str = "x"
    wait_s: float = 1.0
    flag: bool = False
    file: Path | None = None
    inners: tuple[Inner, ...] = ()
    words: tuple[tuple[str, ...], ...] = ()
    inner: Inner = field(default_factory=lambda: Inner("u"))


def test_settings_are_built_with_their_types() -> None:
    values = {
        "wait_s": 2,
        "file": "/a",
        "inners": [{"url": "u"}],
        "words": [["a", "b"]],
        "inner": {"url": "v"},
    }
    built = settings.build(Outer, values, "test")
    assert built == Outer(
        wait_s=2.0, file=Path("/a"), inners=(Inner("u"),), words=(("a", "b"),), inner=Inner("v")
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"naem": "x"}, "unknown setting 'naem'"),
        ({"wait_s": "2"}, "test.wait_s: must be a number"),
        ({"wait_s": -1}, "must not be negative"),
        ({"flag": 1}, "must be true or false"),
        ({"inners": "u"}, "must be a list"),
        ({"inners": [{}]}, "'url' is required"),
        ({"inners": [{"url": "u", "tries": True}]}, "inners[0].tries: must be a whole number"),
        ({"inner": 3}, "must be a mapping"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.build(Outer, values, "test")
    assert said in str(caught.value)


def test_settings_files(tmp_path: Path) -> None:
    json_file, yaml_file = tmp_path / "a.json", tmp_path / "a.yaml"
    json_file.write_text('{"name": "n"}')
    yaml_file.write_text("name: n\n")
    assert settings.read_mapping(json_file) == settings.read_mapping(yaml_file) == {"name": "n"}
    for text in ("[1]", "{", "a: ["):
        yaml_file.write_text(text)
        with pytest.raises(SettingsError):
            settings.read_mapping(yaml_file)
    with pytest.raises(SettingsError):
        settings.read_mapping(tmp_path / "none.json")


@pytest.mark.goal("G21")
def test_secrets_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "secrets.json"
    settings.write_secrets(path, {"a": "b"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert settings.read_secrets(path) == {"a": "b"}
    with pytest.raises(FileExistsError):
        settings.write_secrets(path, {})
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        settings.read_secrets(path)
    with pytest.raises(SettingsError, match="create it"):
        settings.read_secrets(tmp_path / "none")


@pytest.mark.goal("G21")
def test_secrets_of_another_account_are_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: only root can give a file to another account")
    path = tmp_path / "secrets.json"
    settings.write_secrets(path, {})
    os.chown(path, 65534, 65534)
    with pytest.raises(SettingsError, match="belongs to uid"):
        settings.read_secrets(path)


# Context and text


TEXT = st.text(max_size=300)


@given(st.builds(Inbound, *([TEXT] * 6), st.just("thread:sha256:" + "0" * 64), *([TEXT] * 4)))
def test_a_context_always_fits(inbound: Inbound) -> None:
    short = Inbound("whatsapp", inbound.entrypoint_kind[:16], inbound.entrypoint_id, inbound.sender,
                    inbound.conversation_kind[:16], inbound.conversation_id, inbound.thread, inbound.message_id,
                    inbound.timestamp, inbound.reply_kind[:16], inbound.reply_address)  # fmt: skip
    made = io_context(short)
    assert len(canonical(made)) <= context.CONTEXT_BYTES_MAX
    assert made["io"]["conversation"]["thread_id"] == inbound.thread


def test_the_context_bound_is_the_protocols() -> None:
    assert context.CONTEXT_BYTES_MAX == protocol_limits.CONTEXT_BYTES_MAX


@given(st.text(max_size=50), st.integers(0, 60))
def test_cutting_text_leaves_whole_characters(text: str, size: int) -> None:
    short = cut(text, size)
    assert len(short.encode("utf-8", "replace")) <= max(size, 0)
    assert text.startswith(short)


def test_words_of_any_payload() -> None:
    assert words_of(text_payload(" hi ")) == "hi"
    assert words_of({"text": "a"}) == words_of("a ") == words_of({"message": "a"}) == "a"
    for nothing in (None, 3, b"x", {}, {"content": ""}, {"content": 5}, {"content_ref": {}}, " "):
        assert words_of(nothing) is None
    assert text_payload("a", citations=[])["citations"] == []
