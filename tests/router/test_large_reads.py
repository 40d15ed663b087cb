"""Large reads are walked where they lie: the frame that the last read began is completed first, by itself. Whatever the
cuts, every consumer gets the bytes that were meant for it, in order."""

from __future__ import annotations

import random

import pytest

from router.wire import Router
from skep.protocol import limits
from skep.protocol.header import AckLevel

DIGEST = bytes(range(32))
THREADED = {"thread": DIGEST}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("equal", [False, True], ids=["varied", "equal"])
@pytest.mark.parametrize("facts", [{}, THREADED, {"ack_level": AckLevel.DELIVERED}], ids=["plain", "thread", "ack"])
def test_every_cut_of_a_stream_gives_the_same_frames(seed: int, facts: dict[str, object], equal: bool) -> None:
    router, random_ = Router(), random.Random(seed)
    a = router.node("AI.a")
    sinks = [router.node(f"AI.s{i}") for i in range(3)]
    stream, meant = _equal(a, random_, facts) if equal else _stream(a, random_, facts)
    heard: list[list[str]] = [[], [], []]
    at = 0
    while at < len(stream):
        size = random_.choice([random_.randrange(1, 300), random_.randrange(16_000, 17_000), 60_000])
        a.feed(stream[at : at + size])
        at += size
        for sink, words in zip(sinks, heard, strict=True):
            words += [m.payload for m in sink.read()]
    assert heard == meant
    assert a.link.accepted == sum(map(len, meant))
    assert all(sink.link.held_bytes == 0 for sink in sinks)


def _stream(a: object, random_: random.Random, facts: dict[str, object]) -> tuple[bytes, list[list[str]]]:
    """Some hundred KiB: bursts to one destination, then interleaved, sizes from empty to many KiB."""
    frames, meant = [], [[], [], []]  # type: ignore[var-annotated]
    for number in range(240):
        to = 0 if number < 80 else random_.randrange(3)
        text = f"{number}:" + "x" * random_.choice([0, 100, 1000, 5000])
        frames.append(a.frame(f"AI.s{to}", f'"{text}"'.encode(), **facts))  # type: ignore[attr-defined]
        meant[to].append(text)
    return b"".join(frames), meant


def _equal(a: object, random_: random.Random, facts: dict[str, object]) -> tuple[bytes, list[list[str]]]:
    """Frames of one length, enough for blocks: to one destination, then to many, with a longer one now and then."""
    frames, meant = [], [[], [], []]  # type: ignore[var-annotated]
    for number in range(700):
        to = number // 100 if number < 300 else random_.randrange(3)
        text = f"{number:04}:" + "x" * (400 if random_.random() < 0.01 else 100)
        some = facts if to != 2 else {}  # a third of them needs nothing but copying
        frames.append(a.frame(f"AI.s{to}", f'"{text}"'.encode(), **some))  # type: ignore[attr-defined]
        meant[to].append(text)
    return b"".join(frames), meant


def test_blocks_of_a_thread_are_numbered_one_by_one() -> None:
    router = Router()
    a, b = router.node("AI.a"), router.node("AI.b")
    frames = [a.frame("AI.b", b'"%03d"' % i, **THREADED) for i in range(200)]
    a.feed(b"".join(frames[:7]))
    a.feed(b"".join(frames[7:]))
    heard = b.read()
    assert [m.thread_seq & 0xFFFFFFFF for m in heard] == list(range(1, 201))
    assert [m.payload for m in heard] == [f"{i:03}" for i in range(200)]


def test_a_block_with_a_stranger_or_an_odd_frame_is_walked() -> None:
    """A destination that nobody knows, and an extension field, in the middle of frames of one length."""
    router = Router()
    a, b, c = router.node("AI.a"), router.node("AI.b"), router.node("AI.c")
    names = ["AI.b" if i % 2 else "AI.c" for i in range(120)]
    names[50] = names[90] = "AI.x"
    a.feed(b"".join(a.frame(name, b'"%03d"' % i) for i, name in enumerate(names)))
    assert [m.payload for m in b.read()] == [f"{i:03}" for i, name in enumerate(names) if name == "AI.b"]
    assert [m.payload for m in c.read()] == [f"{i:03}" for i, name in enumerate(names) if name == "AI.c"]
    assert [m.verb for m in a.read()] == ["UNREACHABLE", "UNREACHABLE"]
    assert a.link.accepted == 120


def test_numbers_of_a_thread_go_on_over_a_cut() -> None:
    router = Router()
    a, b = router.node("AI.a"), router.node("AI.b")
    frames = [a.frame("AI.b", b'"' + b"x" * 900 + b'"', **THREADED) for _ in range(60)]
    stream = b"".join(frames)
    for at in range(0, len(stream), 20_011):
        a.feed(stream[at : at + 20_011])
    numbers = [m.thread_seq & 0xFFFFFFFF for m in b.read()]
    assert numbers == list(range(1, 61))


def test_a_first_frame_that_must_wait_keeps_everything_behind_it() -> None:
    """Out of decisions in the middle of a large read: nothing of it is lost, nothing overtakes."""
    router = Router()
    stranger, b = router.node("AI.a"), router.node("AI.b")
    names = [f"AI.none{i}" for i in range(300)]
    stream = b"".join(stranger.frame(name, b'"' + b"y" * 400 + b'"') for name in names)
    stream += stranger.frame("AI.b", b'"last"')
    cut = 50
    stranger.feed(stream[:cut])
    stranger.feed(stream[cut:])
    for _ in range(200):
        router.advance(20_000_000)
    refused = [m.payload["original_dst"] for m in stranger.read() if m.verb == "UNREACHABLE"]
    assert refused == names
    assert [m.payload for m in b.read()] == ["last"]
    assert stranger.link.accepted == len(names) + 1


@pytest.mark.parametrize("length", [0, 3, 111, limits.FRAME_BYTES_MAX + 1, 1 << 31])
def test_a_tail_that_lies_about_its_length_ends_the_link_also_before_a_large_read(length: int) -> None:
    router = Router()
    a = router.node("AI.a")
    router.node("AI.b")
    a.feed(a.frame("AI.b") + length.to_bytes(4, "little")[:3])
    a.feed(length.to_bytes(4, "little")[3:] + bytes(40_000))
    assert a.port.closed is not None
