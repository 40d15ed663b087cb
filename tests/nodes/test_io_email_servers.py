"""Mail servers that answer wrongly, too much, or never: bounded, said, and no secret given away."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from skep_nodes.io.mail_imap import LINES_MAX, Imap, ImapError, quoted
from skep_nodes.io.mail_place import Account, Place
from skep_nodes.io.mail_smtp import NotSent, hand_over
from support.fuzzing import mutated

ME = Account("me", "secret-word")
HELLO = b"* OK ready\r\n"
CAPABLE = b"* CAPABILITY IMAP4rev1 IDLE\r\n"
FETCHED = b"* 1 FETCH (UID 7 RFC822.SIZE 5 BODY[]<0> {5}\r\nhello)\r\n"
Reply = Callable[[bytes, bytes], bytes]
"""From a tag and a command, what is sent back."""


def usual(tag: bytes, command: bytes) -> bytes:
    """A server that does as it should."""
    kind = command.split()[0].upper()
    before = {b"CAPABILITY": CAPABLE, b"SELECT": b"* OK [UIDVALIDITY 9] ok\r\n", b"UID": FETCHED}.get(
        kind, b""
    )
    if command.startswith(b"UID SEARCH"):
        before = b"* SEARCH 7 9\r\n"
    return before + tag + b" OK done\r\n"


@asynccontextmanager
async def server(reply: Reply = usual, hello: bytes = HELLO) -> AsyncIterator[Place]:
    """An IMAP server that says what the test wants."""

    served: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello)
        try:
            while line := await reader.readline():
                tag, _, command = line.rstrip().partition(b" ")
                writer.write(reply(tag, command))
        except OSError:
            pass  # the client has left
        finally:
            writer.close()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(talk(reader, writer)))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Place("127.0.0.1", listening.sockets[0].getsockname()[1], "none")
    finally:
        listening.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


def instead(kind: bytes, answer: bytes) -> Reply:
    """The usual server, but for one command; `TAG` stands for its tag."""
    return lambda tag, command: (
        answer.replace(b"TAG", tag) if command.upper().startswith(kind) else usual(tag, command)
    )


async def all_of_it(place: Place) -> tuple[list[int], tuple[bytes, int] | None]:
    imap = await Imap.open(place, ME, timeout_s=1)
    try:
        await imap.select("INBOX")
        found = await imap.unseen(), await imap.fetch(7, 1000)
        await imap.mark([7], "\\Seen")
        await imap.idle(0.01)
        return found
    finally:
        imap.abort()


async def test_the_usual_server() -> None:
    async with server(instead(b"IDLE", b"+ idling\r\n* 3 EXISTS\r\nTAG OK done\r\n")) as place:
        assert await all_of_it(place) == ([7, 9], (b"hello", 5))


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b'* 1 FETCH (UID 7 RFC822.SIZE 5 BODY[]<0> "he\\"lo")\r\nTAG OK\r\n', b'he"lo'),
        (b"* 1 FETCH (UID 7 RFC822.SIZE 0 BODY[]<0> NIL)\r\nTAG OK\r\n", b""),
        (b"* 1 FETCH (BODY[]<0> {2}\r\nhi RFC822.SIZE 9 UID 7)\r\n* 2 EXPUNGE\r\nTAG OK\r\n", b"hi"),
    ],
)
async def test_other_forms_of_the_same(answer: bytes, body: bytes) -> None:
    async with server(instead(b"UID FETCH", answer)) as place:
        imap = await Imap.open(place, ME, timeout_s=1)
        found = await imap.fetch(7, 1000)
        imap.abort()
        assert found is not None
        assert found[0] == body


async def test_a_letter_that_is_gone() -> None:
    for answer in (b"TAG OK\r\n", b"* 1 FETCH (UID 8 RFC822.SIZE 5 BODY[]<0> NIL)\r\nTAG OK\r\n"):
        async with server(instead(b"UID FETCH", answer)) as place:
            imap = await Imap.open(place, ME, timeout_s=1)
            assert await imap.fetch(7, 1000) is None
            imap.abort()


@pytest.mark.goal("G13")
@pytest.mark.parametrize(
    ("reply", "hello"),
    [
        (usual, b""),
        (usual, b"* BYE busy\r\n"),
        (usual, b"HTTP/1.1 400 Bad Request\r\n"),
        (usual, b"\xff" * (2 << 20)),
        (instead(b"LOGIN", b"TAG NO [AUTHENTICATIONFAILED] no\r\n"), HELLO),
        (instead(b"LOGIN", b""), HELLO),
        (instead(b"SELECT", b"TAG BAD what\r\n"), HELLO),
        (instead(b"UID SEARCH", b"* SEARCH " + b"1" * (2 << 20) + b"\r\n"), HELLO),
        (instead(b"UID SEARCH", b"* x\r\n" * (LINES_MAX + 1)), HELLO),
        (instead(b"UID FETCH", b"* 1 FETCH (UID 7 RFC822.SIZE 5 BODY[]<0> {999999999}\r\n"), HELLO),
        (instead(b"UID FETCH", b"* 1 FETCH (UID 7 BODY[]<0> {5}\r\nhe"), HELLO),
        (instead(b"IDLE", b"TAG NO\r\n"), HELLO),
        (instead(b"IDLE", b"+ \r\n* BYE\r\n"), HELLO),
    ],
)
async def test_a_wrong_answer_ends_the_connection(reply: Reply, hello: bytes) -> None:
    async with server(reply, hello) as place:
        with pytest.raises(ImapError) as said:
            await all_of_it(place)
        assert ME.password not in str(said.value)


@pytest.mark.goal("G13")
async def test_mutated_answers_are_taken_or_end_the_connection() -> None:
    random_ = random.Random(6)

    def reply(tag: bytes, command: bytes) -> bytes:
        return mutated(usual(tag, command), random_) if random_.random() < 0.5 else usual(tag, command)

    async with server(reply) as place:
        imap: Imap | None = None
        for _ in range(60):
            try:
                imap = imap or await Imap.open(place, ME, timeout_s=0.05)
                await imap.unseen()
                await imap.fetch(7, 1000)
            except ImapError:
                if imap is not None:
                    imap.abort()
                imap = None
        if imap is not None:
            imap.abort()


async def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = Place("127.0.0.1", taken.getsockname()[1], "none")
        with pytest.raises(ImapError):
            await Imap.open(place, ME)


@pytest.mark.parametrize("text", ["a\r\nb DELETE INBOX", "ñ", "\x00"])
def test_no_setting_becomes_a_command(text: str) -> None:
    with pytest.raises(ImapError):
        quoted(text)
    assert quoted('a"b\\') == '"a\\"b\\\\"'


# ---- SMTP -----------------------------------------------------------------------------------------------------------


@contextmanager
def smtp(*replies: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answers each line with the next reply, then closes; what it heard."""
    heard: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            for reply in replies:
                connection.sendall(reply)
                heard.append(lines.readline(1000))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1], heard
    thread.join(5)
    listening.close()


@pytest.mark.goal("G14")
def test_no_password_and_no_letter_without_encryption() -> None:
    replies = (b"220 hi\r\n", b"250-me\r\n250 AUTH PLAIN\r\n", b"221 bye\r\n")
    with smtp(*replies) as (port, heard), pytest.raises(NotSent, match="STARTTLS") as said:
        hand_over(Place("127.0.0.1", port, "starttls"), ME, "a@x.example", "b@x.example", b"letter", 2)
    assert not said.value.final
    assert not any(b"AUTH" in line or b"MAIL" in line for line in heard)


@pytest.mark.parametrize(
    ("replies", "final"),
    [
        ((b"554 go away\r\n", b"221 bye\r\n"), False),
        ((b"421 busy\r\n",), False),
        ((b"220 hi\r\n", b"250 me\r\n", b"550 no\r\n", b"250 ok\r\n"), True),
        ((b"220 hi\r\n", b"250 me\r\n", b"250 ok\r\n", b"450 later\r\n", b"250 ok\r\n"), False),
        ((b"220 hi\r\n", b"250 me\r\n", b"250 ok\r\n", b"550 unknown\r\n", b"250 ok\r\n"), True),
        ((b"\xff\xff\r\n",), False),
        ((b"220 " + b"x" * 100_000 + b"\r\n",), False),
        ((b"220 hi\r\n", b""), False),
    ],
)
def test_what_a_server_says_is_final_or_not(replies: tuple[bytes, ...], final: bool) -> None:
    with smtp(*replies) as (port, _), pytest.raises(NotSent) as said:
        hand_over(Place("127.0.0.1", port, "none"), Account(), "a@x.example", "b@x.example", b"letter", 1)
    assert said.value.final == final
