"""Which thing happens next: a seeded choice, with weights that are themselves chosen by the seed.

Swarm testing (Groce et al. 2012): a run that does everything a little does nothing thoroughly, so each seed leaves some
kinds of events out. A run is `EVENTS` steps of trouble, then calm: everything is read, taken and confirmed, the quiet
hive is checked, everybody leaves, the empty hive is checked and the ledger closed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from simulation.history import Violation
from simulation.model import HIVE, OWN_UID
from simulation.node import TRACE, Node
from simulation.world import MS, SECOND, Conn, World, small_limits
from skep.protocol import link as link_verbs
from skep.protocol import system
from skep.protocol.codes import CloseReason
from skep.protocol.header import AckLevel, DstKind, MessageClass, Phase, Selector
from skep_shm import ConfigState, Grant, MatchKind, Route, RouteAction, VpnRule

EVENTS = 250
PEOPLE, OTHERS = 2001, 2002
NODES = (
    # name, uid, native
    ("AI.a", OWN_UID, True), ("AI.b", OWN_UID, True), ("AI.pool", OWN_UID, True), ("AI.pool", OWN_UID, True),
    ("AI.pool", OWN_UID, False), ("IO.j", OWN_UID, False), ("IO.web", PEOPLE, True), ("AI.x1", PEOPLE, True),
    ("AI.x2", OTHERS, False), ("WF.slow", OTHERS, True), ("SY.tap", OWN_UID, True),
)
NAMES = tuple(dict.fromkeys(name for name, _, _ in NODES))
THREADS = tuple(sha256(bytes((n,))).digest() for n in range(8))
BOUND = 4  # of them may be bound; also the size of a small thread table, which must hold the bindings
ILKS = tuple(bytes((n,)) * 16 for n in (1, 2))
TENANTS = tuple(bytes((n,)) * 16 for n in (8, 9))
ACKS = {AckLevel.NONE: 12.0, AckLevel.ROUTED: 2.0, AckLevel.DELIVERED: 2.0, AckLevel.STORED: 0.3}
TARGETS = ("", "", "AI.*", f"AI.pool@{HIVE}", f"WF.slow@{HIVE}", "*x*")

GRANTS = (
    Grant(PEOPLE, "IO.web", 2, bytes(16), TENANTS[0], ""), Grant(PEOPLE, "AI.x*", 1, ILKS[0], TENANTS[0], ""),
    Grant(OTHERS, "AI.x2", 0, bytes(16), TENANTS[1], ""), Grant(OTHERS, "WF.*", 1, ILKS[1], bytes(16), ""),
)
RULES: tuple[Route | VpnRule | Grant, ...] = (
    Route(f"WF.old@{HIVE}", MatchKind.EXACT, RouteAction.FORWARD, "", f"AI.b@{HIVE}", 0, 0, 0),
    Route(f"AI.x1@{HIVE}", MatchKind.EXACT, RouteAction.DROP, "", "", 0, 0, 0),
    Route("AI.b", MatchKind.PREFIX, RouteAction.FORWARD, "", f"AI.pool@{HIVE}", 0, 0, 0),
    Route("AI.*", MatchKind.GLOB, RouteAction.FORWARD, HIVE, "", 0, 0, 0),
    Route("WF.slow", MatchKind.PREFIX, RouteAction.FORWARD, "far", "", 0, 0, 0),
    VpnRule("AI.x*", MatchKind.GLOB, 1, 10), VpnRule(f"AI.a@{HIVE}", MatchKind.EXACT, 1, 5),
    VpnRule("WF.*", MatchKind.PREFIX, 2, 20), VpnRule(f"AI.pool@{HIVE}", MatchKind.EXACT, 1, 7),
    *GRANTS,
)


@dataclass
class Mood:
    """What this seed is like."""

    weights: dict[str, int]
    capacities: tuple[int, ...]
    rooms: tuple[int, ...]
    pads: tuple[int, ...]
    ns_per_miss: int
    threads_max: int

    @classmethod
    def of(cls, rng: random.Random) -> Mood:
        weights = dict(_WEIGHTS)
        for name in weights:
            if name not in _NEEDED and rng.random() < 0.25:
                weights[name] = 0
        return cls(
            weights,
            capacities=rng.choice(((10**9,), (400, 10**9), (300, 2_000))),
            rooms=rng.choice(((10**9,), (600, 10**9))),
            pads=rng.choice(((0,), (0, 0, 0, 900), (200, 1_500))),
            ns_per_miss=rng.choice((1_000, 1_000, 40 * MS)),
            threads_max=rng.choice((0, 0, 0, BOUND)),
        )


_WEIGHTS = {
    "send": 60, "feed": 60, "read": 60, "take": 8, "tick": 14, "dial": 16, "crash": 2, "notice": 12, "withdraw": 2,
    "replace": 2, "kill_router": 1, "configure": 8, "bind": 10, "unbind": 2, "jump": 1, "change_habit": 2, "burst": 8,
}
_NEEDED = ("send", "feed", "read", "tick", "dial", "notice")


class Scheduler:
    """One run of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.mood = Mood.of(self.rng)
        self.world = World(self.rng, threads_max=self.mood.threads_max)
        self.version = 0
        self.rules = {rule for rule in RULES if self.rng.random() < (0.9 if rule in GRANTS else 0.25)}
        self.step = 0
        self.trail: list[str] = []
        self.topics: list[Selector] = []  # what is said again and again, by several: hits need a first time
        for number, (name, uid, native) in enumerate(NODES):
            uuid = UUID(int=(0x5CE9 << 112) | (4 << 76) | (2 << 62) | number).bytes
            self.world.nodes.append(Node(self.world, f"{name}@{HIVE}", uuid, uid, native))
        for node in self.world.nodes:
            node.reset()
        self.talkers = self.rng.sample(self.world.nodes, 2)  # a few say most: a cached decision must be asked again

    def run(self, events: int = EVENTS) -> World:
        with small_limits(self.mood.ns_per_miss):
            self._trouble(events)
            self._calm()
        return self.world

    def _trouble(self, events: int) -> None:
        world, rng = self.world, self.rng
        world.start_router()
        if rng.random() < 0.8:
            world.configure(self._state())
        names = tuple(self.mood.weights)
        weights = tuple(self.mood.weights.values())
        for node in world.nodes:
            if rng.random() < 0.8:
                world.connect(node, rng.choice(self.mood.capacities))
        for self.step in range(events):
            name = rng.choices(names, weights)[0]
            if world.router is None:
                if rng.random() < 0.5:
                    world.start_router()
                continue
            world.now += rng.choice((0, 1_000, 200_000, 3 * MS))
            self.trail.append(name)
            getattr(self, f"_{name}")()
            if world.router is not None and not self.step % 8:
                world.check_books()

    # ---- the wire ------------------------------------------------------------------------------------------------

    def _conn(self, wanted: str) -> Conn | None:
        rng, conns = self.rng, self.world.conns
        if wanted == "feed":
            found = [c for c in conns if c.to_router and not c.paused]
        elif wanted == "read":
            found = [c for c in conns if c.to_node and not c.hung_up and c.node.reading]
        elif wanted == "hung_up":
            found = [c for c in conns if c.hung_up]
        elif wanted == "talk":
            up = [c for c in conns if c.node.up and not c.hung_up]
            found = [c for c in up if c.node in self.talkers and rng.random() < 0.9] or up
        else:
            found = [c for c in conns if not c.hung_up]
        return rng.choice(found) if found else None

    def _feed(self) -> None:
        conn = self._conn("feed")
        if conn is not None:
            whole = len(conn.to_router)
            self.world.feed(conn, whole if self.rng.random() < 0.6 else self.rng.randint(1, whole))

    def _read(self) -> None:
        conn = self._conn("read")
        if conn is not None:
            whole = len(conn.to_node)
            self.world.read(conn, whole if self.rng.random() < 0.6 else self.rng.randint(1, whole))
            conn.node.flush(self.rng.choice(self.mood.rooms))

    def _take(self) -> None:
        for node in self.world.nodes:
            if node.taking == "lazy":
                node.take()

    def _tick(self) -> None:
        self.world.now += 5 * MS
        self.world.tick()

    def _jump(self) -> None:
        """The machine slept: the next event finds another time."""
        self.world.now += self.rng.choice((SECOND, 40 * SECOND, 3600 * SECOND))

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        idle = [node for node in self.world.nodes if node.conn is None]
        if idle:
            self.world.connect(self.rng.choice(idle), self.rng.choice(self.mood.capacities))

    def _crash(self) -> None:
        conn = self._conn("live")
        if conn is not None:
            self.world.hang_up(conn)

    def _notice(self) -> None:
        conn = self._conn("hung_up")
        if conn is not None:
            self.world.notice(conn)

    def _replace(self) -> None:
        """The node's link breaks and it is back before the router has seen the end of the old one."""
        conn = self._conn("live")
        if conn is not None:
            self.world.hang_up(conn)
            self.world.connect(conn.node, self.rng.choice(self.mood.capacities))

    def _withdraw(self) -> None:
        """The node takes its leave: what it wrote before is still read."""
        conn = self._conn("live")
        if conn is None or not conn.node.up:
            return
        node = conn.node
        node.flush(10**9)
        if node.native:
            node.say(link_verbs.pack_bye(CloseReason.WITHDRAWN, "done"))
        else:
            conn.to_router += system.system_frame(
                "WITHDRAW", {}, source=node.uuid, destination=None, ttl=1, trace_id=TRACE
            )

    def _change_habit(self) -> None:
        node = self.rng.choice(self.world.nodes)
        node.taking = self.rng.choice(("eager", "eager", "lazy", "never"))
        node.reading = self.rng.random() < 0.7

    # ---- messages ------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        conn = self._conn("talk")
        if conn is None:
            return
        self._post(conn.node, self._selector())
        conn.node.flush(self.rng.choice(self.mood.rooms))

    def _burst(self) -> None:
        """Many messages of few flows, as a loaded node sends them."""
        conn = self._conn("talk")
        if conn is None:
            return
        flows = [self._selector() for _ in range(self.rng.randint(1, 3))]
        for _ in range(self.rng.randint(5, 40)):
            self._post(conn.node, self.rng.choice(flows))
        conn.node.flush(self.rng.choice(self.mood.rooms))

    def _post(self, node: Node, selector: Selector) -> None:
        rng = self.rng
        if (selector.dst_kind, selector.destination) in node.paused and rng.random() < 0.8:
            return
        head: dict[str, object] = {}
        if rng.random() < 0.15:
            head["deadline_ms"] = rng.choice((1, 3, 20, 1_000))
        if rng.random() < 0.3:
            head["trace_id"] = rng.randbytes(16)
        if rng.random() < 0.02:
            head["claimed"] = rng.choice(self.world.nodes).uuid
        self.world.post(node, selector, rng.choice(self.mood.pads), **head)

    def _selector(self) -> Selector:
        if self.topics and self.rng.random() < 0.7:
            return self.rng.choice(self.topics)
        selector = self._new_selector()
        if len(self.topics) < 8:
            self.topics.append(selector)
        return selector

    def _new_selector(self) -> Selector:
        rng = self.rng
        kind, destination, target = self._destination()
        order = rng.random() < 0.05
        facts: dict[str, object] = {}
        if rng.random() < 0.5:
            text = rng.random() < 0.2
            facts["thread"] = b"chat-1" if text else rng.choice(THREADS if rng.random() < 0.3 else THREADS[:2])
            facts["thread_is_text"] = text
        if rng.random() < 0.1:
            facts["src_ilk"] = rng.choice(ILKS)
        return Selector(
            message_class=MessageClass.SYSTEM if order else MessageClass.USER,
            verb=rng.choice(("CONFIG_CHANGED", "NODE_PING")) if order else "",
            flags=int(rng.random() < 0.05), ttl=0 if rng.random() < 0.03 else 16,
            phase=rng.choice((Phase.MESSAGE, Phase.MESSAGE, Phase.REQUEST, Phase.REPLY)),
            ack_level=rng.choices(tuple(ACKS), tuple(ACKS.values()))[0],
            dst_kind=kind, destination=destination, target=target, **facts,  # type: ignore[arg-type]
        )

    def _destination(self) -> tuple[DstKind, bytes, str]:
        rng = self.rng
        draw = rng.random()
        if draw < 0.45:
            name = rng.choice((*NAMES, "AI.pool", "AI.pool"))
            return DstKind.NAME, (name if rng.random() < 0.5 else f"{name}@{HIVE}").encode(), ""
        if draw < 0.7:
            return DstKind.UUID, rng.choice(self.world.nodes).uuid, ""
        if draw < 0.8:
            return DstKind.BROADCAST, b"", rng.choice(TARGETS)
        if draw < 0.85:
            return DstKind.POLICY, b"", ""
        odd = ("AI.nobody", "AI.pool@*", "AI.*@*", "AI.x1@elsewhere", "WF.old", "AI.b@*")
        return DstKind.NAME, rng.choice(odd).encode(), ""

    # ---- rules ---------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        """One or two rules come or go, so that a change is a small one and most decisions outlive it."""
        for rule in self.rng.sample(RULES, self.rng.randint(1, 2)):
            self.rules ^= {rule}
        self.world.configure(self._state())
        self.world.check_live()

    def _state(self) -> ConfigState:
        self.version += 1
        chosen = [rule for rule in RULES if rule in self.rules]
        return ConfigState(
            version=self.version, limits={},
            routes=tuple(r for r in chosen if isinstance(r, Route)),
            vpns=tuple(r for r in chosen if isinstance(r, VpnRule)),
            grants=tuple(r for r in chosen if isinstance(r, Grant)),
        )

    def _bind(self) -> None:
        rng = self.rng
        handler = rng.choice((*NAMES, "AI.nobody"))
        lease = rng.choice((0, self.world.now + 4 * MS, self.world.now + SECOND))
        self.world.bind(rng.choice((*THREADS[:BOUND], *THREADS[:2])), f"{handler}@{HIVE}", lease)

    def _unbind(self) -> None:
        self.world.unbind(self.rng.choice(THREADS[:BOUND]))

    def _kill_router(self) -> None:
        self.world.kill_router()

    # ---- calm ----------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Everybody reads and takes until nothing moves, then leaves."""
        world = self.world
        if world.router is None:
            world.start_router()
        for node in world.nodes:
            node.reading, node.taking = True, "eager"
        self._settle()
        world.check_quiet()
        for conn in tuple(world.conns):
            if not conn.closed:
                world.hang_up(conn)
                world.notice(conn)
        world.check_empty()

    def _settle(self) -> None:
        world = self.world
        for _ in range(4000):  # long enough to pay for every decision that was put off
            moved = False
            for conn in tuple(world.conns):
                moved |= self._move(conn)
            world.now += 30 * MS
            world.tick()
            if not moved and not any(c.to_node or c.to_router for c in world.conns) and not world.core.deferred:
                return
        raise Violation("the hive never comes to rest")

    def _move(self, conn: Conn) -> bool:
        world, node = self.world, conn.node
        if conn.closed:
            return False
        if conn.hung_up:
            world.notice(conn)
            return True
        node.take()
        moved = bool(conn.to_node or (conn.to_router and not conn.paused) or node.outbox)
        if conn.to_node:
            world.read(conn, len(conn.to_node))
        node.flush(10**9)
        if conn.to_router and not conn.paused and not conn.closed:
            world.feed(conn, len(conn.to_router))
        return moved


def run(seed: int, events: int = EVENTS) -> World:
    """One seed. Raises Violation, or whatever the core raised, with the way to run it again."""
    scheduler = Scheduler(seed)
    try:
        return scheduler.run(events)
    except Exception as error:
        last = " ".join(scheduler.trail[-12:])
        error.add_note(f"seed {seed}, event {scheduler.step} ({last}); again: SKEP_SEED={seed} pytest tests/simulation")
        raise
