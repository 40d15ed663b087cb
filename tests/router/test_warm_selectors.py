"""Ten thousand warm selectors through the policy cost what as many plain names do: a hit asks nobody."""

from __future__ import annotations

import statistics
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


def cycle(router: Governed, sender: Peer, bot: Peer, pieces: list[bytes], pace_ns: int = 0) -> float:
    """Frames a second through the core; the consumer takes what it gets."""
    began = time.perf_counter()
    for piece in pieces:
        router.now += pace_ns
        sender.feed(piece)
        bot.port.written.clear()
        bot.feed(pack_taken(bot.link.written_frames))
    return SELECTORS / (time.perf_counter() - began)


@pytest.mark.slow
def test_warm_selectors_of_the_policy_are_as_fast_as_plain_names() -> None:
    router = Governed()
    router.govern(READS_ALL)
    sender, named, bot = router.node("IO.policy"), router.node("IO.named"), router.node("AI.bot")
    routed, plain = reads(sender, None), reads(named, "AI.bot")
    for who, pieces in ((sender, routed), (named, plain)):
        cycle(router, who, bot, pieces, SECOND // 10)
    assert len(sender.link.flows) == len(named.link.flows) == SELECTORS
    decided = len(router.engine.asked)  # type: ignore[union-attr]
    pairs = [(cycle(router, sender, bot, routed), cycle(router, named, bot, plain)) for _ in range(9)]
    ratio = statistics.median(a / b for a, b in pairs)
    rate = statistics.median(a for a, _ in pairs)
    print(f"{SELECTORS} warm selectors: {rate:,.0f} frames a second by policy, {ratio:.2f} x plain names")
    assert len(router.engine.asked) == decided  # type: ignore[union-attr]
    assert ratio >= 0.8  # the goal is 0.85; the rest is for a busy machine
