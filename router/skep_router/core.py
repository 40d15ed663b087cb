"""The router's core: events in, calls on ports out. It holds no socket, no clock, no task and no file.

The shell (or a simulation) tells it what happened: `greet`, `receive`, `blocked`, `writable`, `lost`, `configure`,
`bindings`, `tick`; each runs to its end without waiting, so each change is atomic. What the core wants done it calls on
the ports and hooks it was given. Time is an argument, nanoseconds of a clock that never goes back.

Who owns what: `registry` says who is here, `fib` where names lead, `grants` who may be whom, `accounts` what each uid
holds, `threads` sequences and bindings, `identities` who the interlocutors are, `policies` the policy in force, `rests`
what decisions depend on. The core is where they meet; the work itself is in `joining` (handshake),
`forward` (hits), `slow` (misses), `delivery` (queues), `changes` (of policy and identity) and `answers` (what the
router itself says).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from skep.protocol import limits
from skep.protocol.codes import CloseReason, Reason
from skep_router import answers, changes, control, delivery, forward, joining, slow, tap
from skep_router.accounts import Accounts
from skep_router.decisions import Decisions
from skep_router.fib import NAMES_PER_MISS, Fib, vpn_allows
from skep_router.flow import Flow, drop, each, install
from skep_router.grants import Grants, tenant_allows
from skep_router.hooks import Counters, Hooks
from skep_router.hop import Held, Hop, Port
from skep_router.identities import Identities
from skep_router.joining import Pending
from skep_router.link import Link
from skep_router.policies import Policies
from skep_router.pulse import Pulse
from skep_router.registry import Registry
from skep_router.rests import Rests
from skep_router.self_link import SelfLink
from skep_router.settings import Settings
from skep_router.thread import Thread, Threads

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from skep_policy.decider import Decider
    from skep_router.changes import IdentityChange
    from skep_router.identities import Find
    from skep_shm import Binding, ConfigState


class Core:
    """One router. `settings` is frozen; `hooks` are the core's only ways out besides the ports of its links."""

    def __init__(self, settings: Settings, hooks: Hooks, epoch: int) -> None:
        self.settings = settings
        self.hooks = hooks
        self.epoch = epoch
        self.uuid = settings.uuid
        self.name = settings.full_name
        self.registry: Registry[Link] = Registry(settings.hive, settings.grace_s)
        self.fib: Fib[Link] = Fib(settings.hive, self.registry)
        self.grants = Grants(settings.own_uid)
        self.accounts = Accounts()
        self.threads = Threads(epoch, evicted=self._evict_thread)
        self.frontdesk = self.full_name(settings.frontdesk)
        self.identities = Identities()
        self.policies = Policies(settings.policy_required)
        self.rests = Rests()
        self.governed = settings.policy_required or settings.identity_required
        self.decisions = Decisions()
        self.config: ConfigState | None = None
        self.ready = False
        self.links_of_others = 0  # registered connections of accounts that are not the hive's own
        self.draining = False
        self.counters = Counters()
        self.me = SelfLink(self.uuid, self.name, settings.own_uid, self.accounts.get(settings.own_uid))
        self.no_flow = Flow(self.me, b"", None)  # what a look-up finds when there is nothing: no hop, not plain
        self.no_flow.seal()
        self.touched: list[Link] = []
        self.confirm_due: list[Link] = []
        self.pending: dict[Pending, None] = {}
        self.now = 0  # the time of the event being handled
        self.urgent = False  # somebody waits for CONFIRMED
        self.overdrawn: dict[Link, None] = {}  # not read until its uid holds less
        self.deferred: list[tuple[int, Link]] = []  # (when it may be read again, link): out of decisions
        self.broadcasts = slow.LoopGuard()
        self.taps = tap.Tap()
        self.pulse = Pulse(settings.ping_s)

    # -- events ---------------------------------------------------------------------------------------------------

    def greet(self, port: Port, uid: int, pid: int, now: int) -> Pending | None:
        """A connection was accepted. None: its uid has too many that never introduced themselves."""
        return joining.greet(self, port, uid, pid, now)

    def introduce(self, pending: Pending, data: bytes, now: int) -> Link | None:
        """Bytes before registration; the link once HELLO was accepted (its leftover bytes are forwarded here)."""
        return joining.introduce(self, pending, data, now)

    def receive(self, link: Link, data: bytes, now: int) -> None:
        """One read of a registered connection."""
        self.now = link.heard_ns = now
        if link.native:
            forward.forward(self, link, data, now)
        else:
            slow.receive_json(self, link, data, now)

    def blocked(self, link: Link) -> None:
        """The link's socket takes no more for now."""
        link.block()

    def writable(self, link: Link, now: int) -> None:
        delivery.writable(self, link, now)
        if not link.blocked:
            answers.resume(link)

    def lost(self, link: Link | Pending, reason: CloseReason, now: int, detail: str = "") -> None:
        """The connection is gone, whoever ended it. Safe to call twice."""
        if isinstance(link, Pending):
            joining.lost_pending(self, link)
            return
        if link.closed:
            return
        self.now = now
        link.closed = True
        link.block()
        joining.leave(self, link, reason, now, detail)
        delivery.report_abandoned(self, link)

    def configure(self, state: ConfigState, now: int) -> None:
        """A new configuration: rules first, then exactly the flows and links that they touch."""
        joining.configure(self, state, now)

    def bindings(self, changed: list[Binding], gone: list[bytes], now: int) -> None:
        """Thread bindings that were set or renewed, and the threads of those that were removed."""
        for binding in changed:
            self._drop_each(self.threads.bind(binding, now))
        for thread in gone:
            self._drop_each(self.threads.unbind(thread))

    def identity_known(self, find: Find, change: IdentityChange, now: int) -> None:
        """The region of the interlocutors can be read: all that is remembered of it, anew."""
        changes.identity_known(self, find, change, now)

    def identity_changed(self, change: IdentityChange, now: int) -> None:
        """Records that are new, others than before, or gone."""
        changes.identity_changed(self, change, now)

    def use_policy(self, decider: Decider, version: int, hash_: str, now: int) -> Decider | None:
        """From the next frame on this policy decides. -> the one before, to be closed."""
        return changes.use_policy(self, decider, version, hash_, now)

    def tick(self, now: int) -> None:
        """Called every few milliseconds: what is due by time, and confirmations that nobody was in a hurry for."""
        self.now = now
        joining.expire(self, now)
        slow.resume_deferred(self, now)
        delivery.resume_overdrawn(self)
        self.pulse.beat(self, now)
        self.accounts.expire(now)
        self._drop_each(self.threads.expire(now))
        for flow in self.rests.ended(now):
            self.drop_flow(flow)
        self.decisions.flush(self, now)
        self.flush_confirms()

    def _evict_thread(self, thread: Thread) -> None:
        self._drop_each((thread,))

    def _drop_each(self, threads: tuple[Thread, ...]) -> None:
        for thread in threads:
            for flow in each(thread.flows):
                self.drop_flow(flow)

    def drain(self, grace_ms: int) -> None:
        """No newcomers from now on; those who are here are asked to go elsewhere."""
        self.draining = True
        for link in tuple(self.registry):
            if link.native:
                answers.drain(self, link, grace_ms)

    # -- what the other modules share -----------------------------------------------------------------------------

    def full_name(self, name: str) -> str:
        return name if "@" in name else f"{name}@{self.settings.hive}"

    def wall_ns(self) -> int:
        """Wall time, for records and for ends that are published in it."""
        return self.now + self.identities.wall_offset_ns

    def payer(self, link: Link) -> Hashable:
        """Who pays for slow decisions: a uid, or each node of the hive's own account by its name."""
        return link.name if link.uid == self.settings.own_uid else link.uid

    def charge_names(self, link: Link, names: int) -> None:
        """An answer that took a walk over names is charged for the walk."""
        if names >= NAMES_PER_MISS:
            link.account.charge_miss(self.now, names // NAMES_PER_MISS)

    def may_meet(self, a: Link, b: Link) -> Reason | None:
        """Why these two may not exchange messages; None when they may."""
        if not vpn_allows(a.name, a.vpn_id, b.name, b.vpn_id):
            return Reason.VPN_BLOCKED
        return None if tenant_allows(a.tenant, b.tenant) else Reason.TENANT_BLOCKED

    def exceptional(self, link: Link, data: bytes, pos: int, end: int, now: int) -> int:
        return slow.exceptional(self, link, data, pos, end, now)

    def taken(self, link: Link, ordinal: int, now: int) -> None:
        control.taken(self, link, ordinal, now)

    def decorate(self, flow: Flow, hop: Link, frame: bytes, now: int) -> bytes | None:
        return slow.decorate(self, flow, hop, frame, now)

    def finish(self, link: Link, accepted: int, now: int) -> None:
        if self.taps.pending:
            self.taps.flush(self, now)
        forward.finish(self, link, accepted, now)

    def overflow(self, hop: Link, held: Held) -> None:
        delivery.overflow(self, hop, held)

    def after_read(self, link: Link) -> None:
        if link.account.held_bytes > limits.UID_BYTES_MAX:
            delivery.overdraw(self, link)
        link.owe_confirmation()
        if self.urgent:
            self.urgent = False
            self.flush_confirms()

    def pause(self, hop: Link, sender: Link) -> None:
        delivery.pause(self, hop, sender)

    def next_member(self, flow: Flow) -> Link:
        """Groups without a thread: in turn, but not to a member that is behind while another is not."""
        group = flow.group
        assert group is not None
        flow.turn = turn = (flow.turn + 1) % len(group)
        hop = group[turn]
        return min(group, key=_backlog) if hop.blocked or hop.over else hop

    def attend(self, flow: Flow, run: bytes | memoryview) -> None:
        """What a run of a flow wants besides being sent."""
        if flow.tap is not None:
            self.taps.add(flow.tap, run)
        if flow.ack:
            self.urgent = True  # somebody waits for CONFIRMED: not until the next tick

    def tap_prefix(self, link: Link, ilk: bytes | None, tenant: bytes) -> bytes | None:
        return self.taps.prefix(link, ilk, tenant)

    def install(self, flow: Flow) -> None:
        """Keep a decision, unless its account has as many as it may. One for a hop that is over its mark starts
        paused."""
        account = flow.link.account
        if account.flows >= limits.FLOWS_PER_UID and flow.link.uid != self.settings.own_uid:
            flow.seal()
            return
        account.flows += 1
        install(flow, self.drop_flow)
        if flow.rest is not None:
            self.rests.keep(flow)
        hop = flow.hop
        if hop is not None and hop.paused and flow.link in hop.paused:
            delivery.pause_too(self, hop, flow)

    def drop_flow(self, flow: Flow) -> None:
        """Forget a decision. A sender that was told PAUSE for it must hear RESUME: nobody else will say it."""
        drop(flow)
        if flow.rest is not None:
            self.rests.forget(flow)
        if flow.paused:
            delivery.unpause(self, flow)

    def drop_resting_on(self, keys: Iterable[Hashable]) -> None:
        if self.rests:
            for flow in tuple(self.rests.on_any(keys)):
                self.drop_flow(flow)

    def drop_flows_into(self, hop: Hop) -> None:
        for flow in each(hop.flows_in):
            self.drop_flow(flow)

    def control(self, link: Link, frame: bytes) -> None:
        """Write a LINK frame: outside of queues and counts, so that it is heard when the queue is the news."""
        if not link.closed:
            link.port.write(frame)

    def break_link(self, link: Link, reason: CloseReason, detail: str, now: int) -> None:
        """The link cannot go on: tell it why, forget it, close it."""
        if link.closed:
            return
        answers.goodbye(self, link, reason, detail)
        self.lost(link, reason, now, detail)
        link.port.close(reason, detail)

    def flush_confirms(self) -> None:
        for link in self.confirm_due:
            link.confirm_due = False
            answers.confirm(self, link)
        self.confirm_due.clear()


def _backlog(link: Link) -> int:
    return link.held_bytes + (1 << 40 if link.blocked else 0)
