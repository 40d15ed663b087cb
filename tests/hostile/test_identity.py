"""G14, G16 and the router's part of G21: nobody is taken for somebody else, and a ticket is seen by nobody."""

from __future__ import annotations

import json
import os
from collections import Counter
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from hostile.conftest import FOREIGN, Net
from hostile.core_rows import hello_outcome
from hostile.line import EndedError, Line, json_frame
from router.wire import SECOND, Peer, Router, uuid_of
from skep.protocol.header import MessageClass, Tag, pack_extensions
from skep_shm import ConfigState, ConfigWriter, Grant
from support.hives import HiveFolder

SPOOFS = 10_000
TRACE = "22222222-2222-4222-8222-222222222222"
MALLORY = 2000
ILK, TENANT = b"i" * 16, b"t" * 16
DOORS = (
    "source uuid", "source uuid, json", "ilk", "ilk, json", "tenant", "tenant by uuid", "router's verb",
    "router's verb, json", "owned verb", "tap", "source name", "other hive", "zero source",
)  # fmt: skip


class Spoofer:
    """One uid with the least of grants, and every way in which it could speak as somebody else."""

    def __init__(self) -> None:
        self.router = Router()
        plain = Grant(MALLORY, "AI.mallory*", 1, ILK), Grant(MALLORY, "IO.mallory")
        apart = Grant(MALLORY, "AI.tenant", tenant=TENANT), Grant(MALLORY, "AI.far", tenant=b"f" * 16)
        self.router.configure(grants=plain + apart)
        self.victim = self.router.node("SY.victim")
        self.target, self.far = self.router.node("AI.target"), self.router.node("AI.far", uid=MALLORY)
        self.join()

    def join(self) -> None:
        node = self.router.node
        self.native, self.tenant = node("AI.mallory", uid=MALLORY), node("AI.tenant", uid=MALLORY)
        self.talker = node("IO.mallory", uid=MALLORY, native=False)

    def rejoin(self) -> None:
        for peer in (self.native, self.tenant, self.talker):
            peer.crash()
        self.join()

    def warm(self) -> None:
        """The honest flow that a spoof could ride on."""
        for peer in (self.native, self.victim):
            peer.send("AI.target")
        self.talker.send_json("AI.target", {}, trace_id=TRACE)
        self.target.read()

    def attempt(self, door: str) -> Peer:
        """Tries one door; -> who tried."""
        a, j, t = self.native, self.talker, self.tenant
        said = {
            "source uuid": lambda: a.send("AI.target", source=self.victim.uuid),
            "zero source": lambda: a.send("AI.target", source=bytes(16)),
            "ilk": lambda: a.send("AI.target", src_ilk=b"x" * 16),
            "tenant": lambda: t.send("AI.far"),
            "tenant by uuid": lambda: t.send(self.far.uuid),
            "router's verb": lambda: a.send("AI.target", message_class=MessageClass.SYSTEM, verb="UNREACHABLE"),
            "owned verb": lambda: a.send("AI.target", message_class=MessageClass.SYSTEM, verb="CONFIG_CHANGED"),
            "tap": lambda: a.send("AI.target", message_class=MessageClass.TAP),
            "source name": lambda: a.send("AI.target", extensions=pack_extensions({Tag.SRC_NAME: b"SY.victim@bee"})),
            "other hive": lambda: a.send("AI.target@other"),
            "source uuid, json": lambda: j.send_json("AI.target", {}, source=self.victim.uuid),
            "ilk, json": lambda: j.send_json("AI.target", {}, src_ilk="ilk:" + str(uuid4())),
            "router's verb, json": lambda: j.send_json("AI.target", {}, type="system", verb="ANNOUNCE"),
        }
        said[door]()
        return {"tenant": t, "tenant by uuid": t}.get(door, j if "json" in door else a)


@pytest.mark.goal("G14")
def test_ten_thousand_spoofs_through_every_door() -> None:
    spoofer = Spoofer()
    told: Counter[str] = Counter()
    for number in range(SPOOFS):
        door = DOORS[number % len(DOORS)]
        if number % 90 == 0:  # also: bad frames of one link are bounded, and a reconnected one is no other
            spoofer.rejoin()
            spoofer.warm()
        counted = spoofer.router.core.counters.refused
        who = spoofer.attempt(door)
        (reason,) = who.reasons()
        told[reason] += 1
        assert spoofer.router.core.counters.refused == counted + 1, door
        spoofer.router.advance(SECOND // 1000)
    delivered = len(spoofer.target.read()) + len(spoofer.far.read())
    print(f"G14: {SPOOFS} spoofs, {delivered} delivered, told {dict(told)}")
    assert delivered == 0
    assert sum(told.values()) == SPOOFS


@pytest.mark.goal("G14")
@pytest.mark.needs("root")
def test_a_dead_nodes_uuid_gives_another_uid_neither_its_name_nor_its_flows(net: Net) -> None:
    owner, target = net.node("owner"), net.node("target")
    owner.say(target.name)
    owner.settled()
    thief = net.line(FOREIGN)
    thief.uuid = owner.uuid
    owner.close()
    assert thief.refused(net.called("owner")) == "NAME_NOT_GRANTED"
    heir = net.line(FOREIGN)
    heir.uuid = owner.uuid
    assert heir.refused(net.called("g")) in ("registered", "UUID_TAKEN")
    if heir.name:
        heir.write(heir.frame("SY.nobody", src_ilk=b"o" * 16))
        assert heir.told() == "ILK_FORBIDDEN"
    assert all(message.source == owner.uuid.bytes for message in target.settled()[:1])


def claim(router: Router, number: int) -> str:
    uid = MALLORY + number
    return hello_outcome(router, "AI.prize", uid=uid, uuid=uuid_of(f"claimant {number}"))


@pytest.mark.goal("G16")
@pytest.mark.needs("root")
def test_of_a_thousand_uids_that_claim_one_name_exactly_one_has_it(hive_folder: HiveFolder) -> None:
    claims = 1000
    writer = ConfigWriter.create(hive_folder.root, hive_folder.hive_id)
    writer.publish(ConfigState(version=1, grants=tuple(Grant(MALLORY + n, "AI.prize") for n in range(claims))))
    router = hive_folder.start_router()
    lines = [Line(router.socket, MALLORY + number) for number in range(claims)]
    for line in lines:
        line.write(json_frame(line.hello_body("AI.prize")))
    outcomes = Counter(outcome_of(line) for line in lines)
    print(f"G16: {claims} claims from {claims} uids: {dict(outcomes)}")
    for line in lines:
        line.close()
    router.stop()
    writer.close()
    assert outcomes == {"registered": 1, "NAME_TAKEN": claims - 1}


def outcome_of(line: Line) -> str:
    try:
        line.welcomed()
    except EndedError as end:
        return end.reason
    return "registered"


@pytest.mark.goal("G16")
@pytest.mark.needs("root")
def test_system_names_are_single_and_out_of_reach(net: Net) -> None:
    own: Counter[str] = Counter()
    for _ in range(16):
        lines = [net.line() for _ in range(60)]
        for line in lines:
            line.write(json_frame(line.hello_body("SY.prize")))
        own.update(outcome_of(line) for line in lines)
    foreign = Counter(net.line(FOREIGN).refused(name) for name in ("SY.prize", "RT.prize") for _ in range(500))
    print(f"G16: SY.prize claimed by its own uid {dict(own)}, SY and RT names by another {dict(foreign)}")
    assert own == {"registered": 1, "NAME_TAKEN": 16 * 60 - 1}
    assert foreign == {"NAME_NOT_GRANTED": 1000}


@pytest.mark.goal("G16")
def test_ten_thousand_claims_of_system_names_by_foreign_uids() -> None:
    router = Router()
    router.configure(grants=tuple(Grant(MALLORY + n, pattern) for n in range(10) for pattern in ("*", "SY.*", "RT.*")))
    names = ("SY.admin", "SY.config.routes", "SY.tap", "RT.main", "RT.other")
    outcomes = Counter(
        hello_outcome(router, names[n % 5], uid=MALLORY + n % 10, uuid=uuid_of(str(n))) for n in range(10_000)
    )
    assert outcomes == {"NAME_NOT_GRANTED": 10_000}
    assert len(router.core.registry) == 0


@pytest.mark.goal("G16")
def test_a_dead_owners_name_is_kept_for_its_grace_time() -> None:
    router = Router()
    router.configure(grants=(Grant(MALLORY, "AI.prize"), Grant(MALLORY + 1, "AI.prize")))
    owner = router.node("AI.prize", uid=MALLORY)
    assert claim(router, 1) == "NAME_TAKEN"
    owner.crash()
    router.advance(int(4.9 * SECOND))
    assert claim(router, 1) == "NAME_TAKEN"
    router.advance(SECOND // 5)
    assert claim(router, 1) == "registered"


@pytest.mark.goal("G21")
@pytest.mark.needs("root")
def test_a_ticket_leaves_no_trace(hive_folder: HiveFolder) -> None:
    canary = f"canary-{uuid4().hex}"
    read_end, write_end = os.pipe()
    row = {"name": "SY.kept", "sha256": sha256(canary.encode()).hexdigest()}
    os.write(write_end, json.dumps(row).encode() + b"\n")
    os.close(write_end)
    writer = ConfigWriter.create(hive_folder.root, hive_folder.hive_id)
    writer.publish(ConfigState(version=1))
    router = hive_folder.start_router("RT.main", "--ticket-fd", str(read_end), pass_fds=(read_end,))
    os.close(read_end)
    holder = Line(router.socket, FOREIGN).hello("SY.kept", ticket=canary)
    assert Line(router.socket, FOREIGN).refused("SY.other", ticket=canary) == "TICKET_INVALID"
    assert Line(router.socket, FOREIGN).refused("SY.kept", ticket=canary[:-1] + "x") == "TICKET_INVALID"
    holder.say("AI.nobody")
    assert holder.told() == "NODE_NOT_FOUND"
    places = [Path(f"/proc/{router.pid}/{name}") for name in ("cmdline", "environ")]
    places += [Path("/dev/shm") / name for name in hive_folder.segments()]
    places += [path for path in hive_folder.root.rglob("*") if path.is_file()]
    hits = [str(path) for path in places if canary.encode() in path.read_bytes()]
    router.stop()
    hits += [] if canary not in router.log() else ["log"]
    writer.close()
    print(f"G21: {len(hits)} hits of the canary in {len(places)} files and regions")
    assert hits == []
    assert len(places) > 5


