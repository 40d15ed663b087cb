"""The harness is worth what it catches: each deliberate bug in the core must fail within a few seeds.

A mutation is a small change of the production code, made by monkeypatching, of the kind that a tired person makes. One
that no longer finds what it patches fails too: then the code has moved, and the mutation moves with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from simulation.scheduler import run
from skep_router import answers, decide, delivery, hop, joining, slow, thread
from skep_router.core import Core
from skep_router.decide import Refusal
from skep_router.hop import Hop
from skep_router.link import Link

SEEDS_MAX = 250
Patch = Callable[[pytest.MonkeyPatch], None]


def leave_keeps_flows(patch: pytest.MonkeyPatch) -> None:
    """Who leaves stays in the flow tables of the others."""
    patch.setattr(Core, "drop_flows_into", lambda core, link: None)


def settle_twice(patch: pytest.MonkeyPatch) -> None:
    settle = Link.settle

    def twice(link: Link, ticket: list[int], deliveries: int) -> None:
        settle(link, ticket, deliveries)
        settle(link, ticket, deliveries)

    patch.setattr(Link, "settle", twice)


def abandoned_is_not_reported(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delivery, "report_abandoned", lambda core, link: link.abandon())


def only_written_is_reported(patch: pytest.MonkeyPatch) -> None:
    """Frames that never left a queue are forgotten with their consumer."""
    abandon = Hop.abandon
    patch.setattr(Hop, "abandon", lambda self: (abandon(self)[0], []))


def epoch_stands_still(patch: pytest.MonkeyPatch) -> None:
    """Thread sequences begin anew after a restart."""
    begin = thread.Threads.__init__

    def first_epoch(self: Any, epoch: int, **options: Any) -> None:
        begin(self, 1, **options)

    patch.setattr(thread.Threads, "__init__", first_epoch)


def full_queue_is_silent(patch: pytest.MonkeyPatch) -> None:
    refuse = answers.refuse_frame

    def quiet(core: Core, link: Link, whole: bytes, refusal: Refusal) -> None:
        if refusal.reason != "QUEUE_FULL":
            refuse(core, link, whole, refusal)

    patch.setattr(answers, "refuse_frame", quiet)


def rules_change_and_flows_stay(patch: pytest.MonkeyPatch) -> None:
    """A VPN rule or a route changes; decisions made before go on."""
    patch.setattr(joining, "affected", lambda before, after: lambda name: False)


def standing_is_never_judged_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(joining, "_rejudge", lambda core, now: set())


def bindings_do_not_bind(patch: pytest.MonkeyPatch) -> None:
    """A binding changes, and the thread's flows still lead to the old handler."""
    patch.setattr(Core, "_drop_each", lambda core, threads: None)


def any_source_will_do(patch: pytest.MonkeyPatch) -> None:
    permitted = decide.permitted
    patch.setattr(slow, "permitted", lambda core, link, source, sel: permitted(core, link, link.uuid, sel))


def deadlines_come_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delivery, "_NS_PER_MS", 100_000)


def refusals_overtaken_by_confirmed(patch: pytest.MonkeyPatch) -> None:
    """CONFIRMED is written to a full socket while the refusals it stands for wait in the queue."""

    confirm = answers.confirm

    def hasty(core: Core, link: Link) -> None:
        blocked, link.blocked = link.blocked, False
        confirm(core, link)
        link.blocked = blocked or link.blocked

    patch.setattr(answers, "confirm", hasty)


def resume_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def unpause(core: Core, flow: Any) -> None:
        flow.paused = False

    patch.setattr(delivery, "unpause", unpause)


def death_keeps_the_charge(patch: pytest.MonkeyPatch) -> None:
    """What a dead consumer held stays on its senders' accounts."""
    release = Hop.abandon

    def abandon(self: Hop) -> Any:
        held = self.held_bytes
        result = release(self)
        for piece, _, sender, *_ in (*result[0], *result[1]):
            sender.account.charge(len(piece) if held else 0)
        return result

    patch.setattr(Hop, "abandon", abandon)


def queue_is_a_stack(patch: pytest.MonkeyPatch) -> None:
    class Stack(deque[Any]):
        def append(self, item: Any) -> None:
            self.appendleft(item)

    patch.setattr(hop, "deque", Stack)


def threads_do_not_stick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(thread.Thread, "pinned", lambda self, name, members: members[self.seq % len(members)])


def tickets_of_refusals_stay_open(patch: pytest.MonkeyPatch) -> None:
    """What is refused for want of room is never settled: CONFIRMED stands still for ever."""
    overflow = delivery.overflow

    def stuck(core: Core, link: Link, held: Any) -> None:
        piece, frames, sender, ticket, *rest = held
        ticket[0] += 1
        overflow(core, link, (piece, frames, sender, ticket, *rest))

    patch.setattr(delivery, "overflow", stuck)


MUTATIONS: tuple[Patch, ...] = (
    leave_keeps_flows, settle_twice, abandoned_is_not_reported, only_written_is_reported, epoch_stands_still,
    full_queue_is_silent, rules_change_and_flows_stay, standing_is_never_judged_again, bindings_do_not_bind,
    any_source_will_do, deadlines_come_early, refusals_overtaken_by_confirmed, resume_is_forgotten,
    death_keeps_the_charge, queue_is_a_stack, threads_do_not_stick, tickets_of_refusals_stay_open,
)


@pytest.mark.goal("G7")
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_deliberate_bug_is_caught(mutation: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    caught = next((error for error in map(failure, range(SEEDS_MAX)) if error is not None), None)
    if caught is None:
        pytest.fail(f"{SEEDS_MAX} seeds passed with a core that has a bug: {mutation.__doc__ or mutation.__name__}")
    assert "again: SKEP_SEED=" in "".join(getattr(caught, "__notes__", ())), "a failure says how to rerun it"


def failure(seed: int) -> Exception | None:
    try:
        run(seed)
    except Exception as error:
        return error
    return None
