"""SY.threads without sockets: who may bind what, leases, and a journal that loses nothing acknowledged."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodes.sy_disk import Crash, TroubledDisk
from skep import find_hive
from skep_nodes.sy.durable import StoreBroken
from skep_nodes.sy.standing import NOBODY, Claim, Sender, Standing, judge, sender_of
from skep_nodes.sy.thread_journal import FILE_NAME, ThreadJournal, replay
from skep_nodes.sy.thread_table import Bound, ThreadRefusal, ThreadTable, thread_digest
from skep_nodes.sy.threads import Threads
from skep_shm import NodeRecord, NodesWriter, RegionCode, RegionError

S = 1_000_000_000
DESK, DANA, OTHER, SYSTEM = "AI.desk@hive", "IO.terminal.dana@hive", "AI.other@hive", "SY.admin@hive"
THREAD = "thread:sha256:" + "ab" * 32


def own(name: str) -> Sender:
    """A sender as the node tables prove it, of the hive's own account."""
    return judge([Claim(name, own=True)])


def foreign(name: str) -> Sender:
    return judge([Claim(name, own=False)])


def bind(table: ThreadTable, handler: str, by: str | Sender, now: int = 0, **facts: Any) -> Bound:
    sender = by if isinstance(by, Sender) else own(by)
    bound = table.prepare_bind({"thread_id": THREAD, "handler": handler, **facts}, sender, now)
    table.put(bound)
    return bound


def code_of(call: Any, *args: Any) -> str:
    with pytest.raises(ThreadRefusal) as caught:
        call(*args)
    return caught.value.code


def test_digest_of_an_id_and_of_text() -> None:
    assert thread_digest(THREAD) == b"\xab" * 32
    assert thread_digest("x") == hashlib.sha256(b"x").digest() != thread_digest(" x")


def test_an_unbound_thread_may_be_bound_by_any_own_node() -> None:
    table = ThreadTable("hive")
    assert bind(table, "IO.terminal.dana", DESK, reason="refund").handler == DANA
    assert table.find(b"\xab" * 32, 0) is not None


def test_only_the_handler_or_a_system_account_moves_a_bound_thread() -> None:
    table = ThreadTable("hive")
    bind(table, DANA, DESK)
    assert code_of(bind, table, OTHER, OTHER) == "FORBIDDEN"
    assert code_of(bind, table, DESK, DESK) == "FORBIDDEN"
    assert bind(table, OTHER, DANA).handler == OTHER
    assert bind(table, DESK, SYSTEM).handler == DESK
    assert code_of(table.prepare_unbind, {"thread_id": THREAD}, own(DANA), 0) == "FORBIDDEN"
    assert table.prepare_unbind({"thread_id": THREAD}, own(DESK), 0) is not None


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"thread_id": ""}, "INVALID_PAYLOAD"),
        ({"thread_id": 7}, "INVALID_PAYLOAD"),
        ({"handler": ""}, "INVALID_PAYLOAD"),
        ({"handler": "no dots"}, "INVALID_PAYLOAD"),
        ({"handler": "sy.x"}, "INVALID_PAYLOAD"),
        ({"handler": "SY.config.routes"}, "FORBIDDEN"),
        ({"lease_s": -1}, "INVALID_PAYLOAD"),
        ({"lease_s": True}, "INVALID_PAYLOAD"),
        ({"lease_s": 8 * 86400}, "INVALID_PAYLOAD"),
        ({"lease_s": float("nan")}, "INVALID_PAYLOAD"),
    ],
)
def test_a_wrong_request_is_refused(facts: dict[str, Any], code: str) -> None:
    payload = {"thread_id": THREAD, "handler": DANA, **facts}
    assert code_of(ThreadTable("hive").prepare_bind, payload, own(DESK), 0) == code


@pytest.mark.goal("G6")
def test_a_lease_ends_on_time_and_a_renewed_one_later() -> None:
    table = ThreadTable("hive")
    bind(table, DANA, DESK, lease_s=10)
    bind(table, DANA, DANA, now=5 * S, lease_s=10)
    assert table.expired(10 * S) == []
    assert table.find(b"\xab" * 32, 15 * S - 1) is not None
    assert table.find(b"\xab" * 32, 15 * S) is None
    assert [bound.handler for bound in table.expired(15 * S)] == [DANA]
    assert bind(table, OTHER, OTHER, now=15 * S).handler == OTHER


# -- who asks ----------------------------------------------------------------------------------------------------


@pytest.mark.goal("G14")
def test_a_foreign_node_cannot_take_a_thread_that_nobody_holds() -> None:
    table = ThreadTable("hive")
    assert code_of(bind, table, OTHER, foreign(OTHER)) == "FORBIDDEN"
    bind(table, DANA, DESK, lease_s=1)
    for now in (0, 2 * S):  # bound to another, and fallen free
        assert code_of(bind, table, OTHER, foreign(OTHER), now) == "FORBIDDEN"
        assert code_of(table.prepare_unbind, {"thread_id": THREAD}, foreign(OTHER), now) == "FORBIDDEN"
        assert code_of(table.look_up, b"\xab" * 32, foreign(OTHER), now) == "FORBIDDEN"
    assert code_of(table.look_up_all, foreign(OTHER), 0) == "FORBIDDEN"


@pytest.mark.goal("G14")
def test_a_foreign_node_is_told_nothing_of_threads_it_does_not_hold() -> None:
    free, bound = ThreadTable("hive"), ThreadTable("hive")
    bind(bound, DANA, DESK)
    refusals = set()
    for table in (free, bound):
        with pytest.raises(ThreadRefusal) as caught:
            table.look_up(b"\xab" * 32, foreign(OTHER), 0)
        refusals.add(str(caught.value))
    assert len(refusals) == 1


@pytest.mark.goal("G14")
def test_a_foreign_node_may_hand_on_and_give_back_what_it_holds() -> None:
    table = ThreadTable("hive")
    bind(table, OTHER, DESK)
    assert table.look_up(b"\xab" * 32, foreign(OTHER), 0) is not None
    assert table.prepare_unbind({"thread_id": THREAD}, foreign(OTHER), 0) is not None
    assert bind(table, DANA, foreign(OTHER)).handler == DANA
    assert code_of(bind, table, OTHER, foreign(OTHER)) == "FORBIDDEN"


@pytest.mark.goal("G14")
def test_a_sender_that_nothing_proves_may_do_nothing() -> None:
    table = ThreadTable("hive")
    bind(table, OTHER, DESK)
    for sender in (NOBODY, Sender("", Standing.OWN), Sender(OTHER, Standing.UNKNOWN)):
        assert code_of(bind, table, OTHER, sender) == "FORBIDDEN"
        assert code_of(table.look_up, b"\xab" * 32, sender, 0) == "FORBIDDEN"
        assert code_of(table.look_up_all, sender, 0) == "FORBIDDEN"


@pytest.mark.parametrize(
    ("claims", "standing", "name"),
    [
        ([], Standing.UNKNOWN, ""),
        ([Claim(DESK, True)], Standing.OWN, DESK),
        ([Claim(DESK, False)], Standing.FOREIGN, DESK),
        ([Claim(SYSTEM, False)], Standing.SYSTEM, SYSTEM),
        ([Claim(DESK, True), Claim(DESK, True)], Standing.OWN, DESK),
        ([Claim(SYSTEM, True), Claim(OTHER, False)], Standing.FOREIGN, ""),
        ([Claim(DESK, True), Claim(DESK, False)], Standing.FOREIGN, DESK),
    ],
)
def test_a_dead_routers_region_takes_rights_away_and_gives_none(
    claims: list[Claim], standing: Standing, name: str
) -> None:
    assert judge(claims) == judge(claims[::-1]) == Sender(name, standing)


@pytest.mark.goal("G14")
def test_senders_are_what_the_regions_of_all_routers_say(hive_root: Path) -> None:
    router, a, b = b"R" * 16, b"a" * 16, b"b" * 16
    assert sender_of(hive_root, a) == NOBODY
    writer = NodesWriter.create(hive_root, router, "RT.main@test", "test")
    other = NodesWriter.create(hive_root, b"S" * 16, "RT.two@test", "test")
    try:
        writer.add(_node(a, DESK, os.geteuid()))
        other.add(_node(b, OTHER, os.geteuid() + 1))
        assert sender_of(hive_root, a) == Sender(DESK, Standing.OWN)
        assert sender_of(hive_root, b) == Sender(OTHER, Standing.FOREIGN)
        assert sender_of(hive_root, router) == Sender("RT.main@test", Standing.SYSTEM)
        assert sender_of(hive_root, b"x" * 16) == NOBODY
    finally:
        writer.close()
        other.close()
    assert sender_of(hive_root, a) == NOBODY


def _node(uuid: bytes, name: str, uid: int) -> NodeRecord:
    return NodeRecord(uuid, name, uid, 1, 0, 0, 0, bytes(16), bytes(16), 0)


def test_reasons_are_cut_between_characters() -> None:
    bound = bind(ThreadTable("hive"), DANA, DESK, reason="ü" * 100)
    assert bound.reason == "ü" * 60


class TableAgainstModel(RuleBasedStateMachine):
    """The table beside a dictionary that looks at every binding each time."""

    threads = st.sampled_from(["t1", "t2", "t3"])
    names = st.sampled_from([DESK, DANA, SYSTEM])

    def __init__(self) -> None:
        super().__init__()
        self.table, self.model, self.now = ThreadTable("hive"), {}, 1

    def _current(self, thread: str) -> str | None:
        handler, until = self.model.get(thread, ("", 1))
        return handler if until == 0 or until > self.now else None

    @rule(thread=threads, handler=st.sampled_from([DESK, DANA]), by=names, lease_s=st.integers(0, 3))
    def bind(self, thread: str, handler: str, by: str, lease_s: int) -> None:
        allowed = self._current(thread) in (None, by) or by == SYSTEM
        payload = {"thread_id": thread, "handler": handler, "lease_s": lease_s}
        if not allowed:
            assert code_of(self.table.prepare_bind, payload, own(by), self.now) == "FORBIDDEN"
            return
        self.table.put(self.table.prepare_bind(payload, own(by), self.now))
        self.model[thread] = (handler, self.now + lease_s * S if lease_s else 0)

    @precondition(lambda self: self.model)
    @rule(thread=threads, by=names)
    def unbind(self, thread: str, by: str) -> None:
        current = self._current(thread)
        if current not in (None, by) and by != SYSTEM:
            assert code_of(self.table.prepare_unbind, {"thread_id": thread}, own(by), self.now) == "FORBIDDEN"
            return
        assert (self.table.prepare_unbind({"thread_id": thread}, own(by), self.now) is None) == (
            current is None
        )
        self.table.drop(thread_digest(thread))
        self.model.pop(thread, None)

    @rule(seconds=st.integers(0, 2))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * S
        for bound in self.table.expired(self.now):
            assert self._current(bound.thread_id) is None
            self.table.drop(bound.thread)

    @invariant()
    def same_bindings(self) -> None:
        live = {thread: self._current(thread) for thread in self.model if self._current(thread)}
        assert {bound.thread_id: bound.handler for bound in self.table.all(self.now)} == live


TableAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_table_against_model = TableAgainstModel.TestCase


# -- the journal -------------------------------------------------------------------------------------------------


def a_bound(thread: str = "t", handler: str = DANA, lease_s: int = 0, until: int = 0) -> Bound:
    return Bound(thread, thread_digest(thread), handler, lease_s, until, "why", DESK)


def test_what_was_bound_is_restored(tmp_path: Path) -> None:
    journal = ThreadJournal(tmp_path, "boot")
    journal.open(0)
    journal.bind(a_bound("a"))
    journal.bind(a_bound("b"))
    journal.unbind(a_bound("a"))
    restored = ThreadJournal(tmp_path, "boot").open(0)
    assert restored.bindings == {thread_digest("b"): a_bound("b")}
    assert not restored.damaged


@pytest.mark.goal("G6")
def test_a_lease_from_before_a_reboot_starts_again(tmp_path: Path) -> None:
    journal = ThreadJournal(tmp_path, "boot-1")
    journal.open(0)
    journal.bind(a_bound("a", lease_s=10, until=900 * S))
    same = ThreadJournal(tmp_path, "boot-1").open(895 * S).bindings[thread_digest("a")]
    assert same.lease_until_ns == 900 * S
    after = ThreadJournal(tmp_path, "boot-2").open(3 * S).bindings[thread_digest("a")]
    assert after.lease_until_ns == 13 * S
    assert ThreadJournal(tmp_path, "boot-2").open(13 * S).bindings == {}


@pytest.mark.goal("G4")
def test_damage_costs_only_the_damaged_line_and_a_torn_tail(tmp_path: Path) -> None:
    journal = ThreadJournal(tmp_path, "boot")
    journal.open(0)
    for name in "abc":
        journal.bind(a_bound(name))
    data = (tmp_path / FILE_NAME).read_bytes()
    lines = data.splitlines(keepends=True)
    for bit in range(0, len(lines[1]) * 8 - 8, 5):
        mutable = bytearray(lines[1])
        mutable[bit // 8] ^= 1 << bit % 8
        restored = replay(lines[0] + bytes(mutable) + lines[2], "boot", 0)
        assert set(restored.bindings) == {thread_digest("a"), thread_digest("c")}
        assert restored.damaged
    for cut in range(len(data)):
        whole = data[:cut].count(b"\n")
        assert len(replay(data[:cut], "boot", 0).bindings) == whole


def test_damaged_lines_are_kept_aside(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"nonsense\n")
    assert ThreadJournal(tmp_path, "boot").open(0).damaged == [b"nonsense"]
    assert (tmp_path / (FILE_NAME + ".damaged")).read_bytes() == b"nonsense\n"
    assert ThreadJournal(tmp_path, "boot").open(0).damaged == []


@pytest.mark.goal("G2")
@pytest.mark.parametrize("after", [False, True])
def test_an_acknowledged_binding_survives_a_crash_at_any_call(tmp_path: Path, after: bool) -> None:
    for nth in range(1, 40):
        (tmp_path / FILE_NAME).unlink(missing_ok=True)
        acknowledged: set[bytes] = set()
        try:
            journal = ThreadJournal(tmp_path, "boot", TroubledDisk(nth, Crash(), after=after))
            journal.open(0)
            for number in range(8):
                journal.bind(a_bound(f"t{number}"))
                acknowledged.add(thread_digest(f"t{number}"))
        except Crash:
            assert acknowledged <= set(ThreadJournal(tmp_path, "boot").open(0).bindings)
            continue
        break
    assert nth > 20


@pytest.mark.goal("G5")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_after_a_failed_write_or_fsync_nothing_more_is_promised(tmp_path: Path, code: int) -> None:
    for nth in (6, 7):
        disk = TroubledDisk(nth, OSError(code, "trouble"))
        (tmp_path / FILE_NAME).unlink(missing_ok=True)
        journal = ThreadJournal(tmp_path, "boot", disk)
        journal.open(0)
        with pytest.raises(StoreBroken):
            for number in range(8):
                journal.bind(a_bound(f"t{number}"))
        with pytest.raises(StoreBroken):
            journal.bind(a_bound("later"))


def test_a_long_journal_is_replaced_by_its_bindings(tmp_path: Path) -> None:
    journal = ThreadJournal(tmp_path, "boot")
    journal.open(0)
    journal._lines = 5000
    assert journal.compact_if_long([a_bound("a")])
    assert not journal.compact_if_long([a_bound("a")])
    journal.bind(a_bound("b"))
    assert len(replay((tmp_path / FILE_NAME).read_bytes(), "boot", 0).bindings) == 2


# -- the node without a router -----------------------------------------------------------------------------------


@pytest.fixture
def service(hive_root: Path) -> Iterator[Threads]:
    threads = Threads(find_hive(hive_root))
    threads.node = _Unlinked()  # type: ignore[assignment]
    yield threads
    threads.region.close()
    threads.journal.close()


class _Unlinked:
    """A node with nobody to ring."""

    class client:
        link = None


@pytest.mark.goal("G5")
def test_a_binding_that_cannot_be_published_leaves_no_trace(
    service: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.bind({"thread_id": "t", "handler": DANA}, own(DANA), 1)

    def full(bound: Bound) -> None:
        raise RegionError(RegionCode.NO_SPACE, "threads", "full")

    monkeypatch.setattr(service, "_publish", full)
    for thread in ("t", "new"):
        with pytest.raises(RegionError):
            service.bind({"thread_id": thread, "handler": OTHER}, own(DANA), 2)
    assert service.get({"thread_id": "t"}, own(DANA), 2)["handler"].startswith("IO.terminal.dana")
    journal = replay(service.journal.path.read_bytes(), "boot", 2)
    assert [bound.handler for bound in journal.bindings.values()] == [DANA]


def test_verbs_without_a_router(service: Threads) -> None:
    assert service.bind({"thread_id": "t", "handler": DANA, "lease_s": 5}, own(DESK), 1)["status"] == "ok"
    assert service.list({}, own(DESK), 1)["count"] == 1
    assert service.unbind({"thread_id": "t"}, own(DANA), 1)["was_bound"] is True
    assert service.unbind({"thread_id": "t"}, own(DANA), 1)["was_bound"] is False
    service.bind({"thread_id": "t", "handler": DANA, "lease_s": 5}, own(DESK), 1)
    service.expire(6 * S)
    assert service.list({}, own(DESK), 6 * S)["count"] == 0
