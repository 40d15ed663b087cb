"""Ten thousand warm selectors through the policy cost what as many plain names do: a hit asks nobody."""

from __future__ import annotations

import time

import pytest

from router.governed import READS_ALL, Governed
from router.wire import SECOND, Peer
from skep.protocol.link import pack_taken

SELECTORS = 10_000
FRAMES_A_READ = 64


def reads(sender: Peer, dst: str | None) -> list[bytes]:
    frames = [sender.frame(dst, bytes(256), action=f"action {number}", content_type=3) for number in range(SELECTORS)]
    return [b"".join(frames[at : at + FRAMES_A_READ]) for at in range(0, SELECTORS, FRAMES_A_READ)]


def feed(router: Governed, sender: Peer, bot: Peer, piece: bytes) -> float:
    """Seconds for one read through the core; the consumer takes what it gets."""
    began = time.perf_counter()
    sender.feed(piece)
    took = time.perf_counter() - began
    bot.port.written.clear()
    bot.feed(pack_taken(bot.link.written_frames))
    return took


@pytest.mark.slow
def test_warm_selectors_of_the_policy_are_as_fast_as_plain_names() -> None:
    """Read by read in turns, and of each read the best of some rounds: others use this machine."""
    router = Governed()
    router.govern(READS_ALL)
    sender, named, bot = router.node("IO.policy"), router.node("IO.named"), router.node("AI.bot")
    routed, plain = reads(sender, None), reads(named, "AI.bot")
    for both in zip(routed, plain, strict=True):
        for who, piece in zip((sender, named), both, strict=True):
            router.now += SECOND // 10
            feed(router, who, bot, piece)
    assert len(sender.link.flows) == len(named.link.flows) == SELECTORS
    decided = len(router.engine.asked)  # type: ignore[union-attr]
    best = [[1.0] * len(routed), [1.0] * len(plain)]
    for _ in range(12):
        for at, both in enumerate(zip(routed, plain, strict=True)):
            for kind, (who, piece) in enumerate(zip((sender, named), both, strict=True)):
                best[kind][at] = min(best[kind][at], feed(router, who, bot, piece))
    by_policy, by_name = (SELECTORS / sum(times) for times in best)
    ratio = by_policy / by_name
    print(f"{SELECTORS} warm selectors: {by_policy:,.0f} frames a second by policy, {ratio:.2f} x plain names")
    assert len(router.engine.asked) == decided  # type: ignore[union-attr]
    assert ratio >= 0.85
