"""As much of IMAP4rev1 (RFC 3501, IDLE of RFC 2177) as a channel needs: log in, find unseen letters, read, mark, wait.

One connection, one command at a time. Letters are read with BODY.PEEK, so nothing is marked by reading it. Lines,
literals and the number of lines of an answer are bounded; whatever is not of the form raises ImapError, and the caller
opens another connection. TLS from the first byte only: STARTTLS would let what was said in plain text before it be
taken for the server's word after it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from skep_nodes.io.mail_place import Account, Place

LINE_BYTES_MAX: Final = 1 << 20  # SEARCH answers with one line: room for 100,000 unseen letters
LINES_MAX: Final = 10_000  # of one answer; servers add what happens meanwhile
TIMEOUT_S: Final = 30.0

_LITERAL = re.compile(rb"\{(\d{1,10})\}\Z")
_UID = re.compile(rb"\bUID (\d{1,10})\b")
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d{1,12})\b")
_VALIDITY = re.compile(rb"\[UIDVALIDITY (\d{1,10})\]")
_QUOTED_BODY = re.compile(rb'\bBODY\[\](?:<\d+>)? "((?:[^"\\]|\\.)*)"')
_PLAIN = re.compile(r"[\x20-\x7e]*")

Answer = list[tuple[bytes, list[bytes]]]
"""Untagged lines, each with its literals."""


class ImapError(Exception):
    """The server said no, said something else, or nothing."""


class Imap:
    """An open connection, logged in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._reader, self._writer, self._timeout_s = reader, writer, timeout_s
        self._number = 0
        self._literal_max = 0
        self.capabilities: frozenset[str] = frozenset()

    @classmethod
    async def open(cls, place: Place, account: Account, timeout_s: float = TIMEOUT_S) -> Imap:
        """Connects and logs in. Raises ImapError."""
        context = place.tls() if place.security == "tls" else None
        try:
            async with asyncio.timeout(timeout_s):
                streams = await asyncio.open_connection(
                    place.host, place.port, ssl=context, limit=LINE_BYTES_MAX
                )
        except (OSError, TimeoutError) as error:
            raise ImapError(f"{place.host}:{place.port}: {error or 'no connection in time'}") from error
        imap = cls(*streams, timeout_s)
        try:
            await imap._greet(account)
        except BaseException:
            imap._writer.close()
            raise
        return imap

    async def close(self) -> None:
        try:
            await self._command("LOGOUT")
        except ImapError:
            pass  # it is closed either way
        self._writer.close()

    def abort(self) -> None:
        self._writer.close()

    async def select(self, folder: str) -> int:
        """Opens a folder; its UIDVALIDITY."""
        answer, _ = await self._command(f"SELECT {quoted(folder)}")
        found = next((hit for line, _ in answer if (hit := _VALIDITY.search(line))), None)
        return int(found[1]) if found else 0

    async def unseen(self) -> list[int]:
        """UIDs of letters that nobody has seen, oldest first."""
        answer, _ = await self._command("UID SEARCH UNSEEN UNDELETED")
        found = [
            word for line, _ in answer if line.upper().startswith(b"SEARCH") for word in line.split()[1:]
        ]
        return sorted({int(word) for word in found if word.isdigit() and len(word) <= 10})

    async def fetch(self, uid: int, bytes_max: int) -> tuple[bytes, int] | None:
        """The first `bytes_max` bytes of a letter, and how many it has; None when it is gone."""
        self._literal_max = bytes_max
        command = f"UID FETCH {uid} (UID RFC822.SIZE BODY.PEEK[]<0.{bytes_max}>)"
        answer, _ = await self._command(command)
        for line, literals in answer:
            own, size = _UID.search(line), _SIZE.search(line)
            if own is not None and size is not None and int(own[1]) == uid:
                return _body(line, literals), int(size[1])
        return None

    async def mark(self, uids: Sequence[int], flags: str) -> None:
        if uids:
            await self._command(f"UID STORE {','.join(map(str, uids))} +FLAGS.SILENT ({flags})")

    async def idle(self, seconds: float) -> bool:
        """Waits until the server has something new (True) or for `seconds`. Without IDLE it just asks: False."""
        if "IDLE" not in self.capabilities:
            await self._command("NOOP")
            return False
        tag = self._send("IDLE")
        await self._continuation()
        fresh = await self._something_new(seconds)
        self._writer.write(b"DONE\r\n")
        await self._answer(tag, "IDLE")
        return fresh

    # ---- speaking ------------------------------------------------------------------------------------------------

    async def _greet(self, account: Account) -> None:
        line, _ = await self._line()
        if not line.startswith((b"* OK", b"* PREAUTH")):
            raise ImapError(f"the server does not welcome: {_shown(line)}")
        if not line.startswith(b"* PREAUTH"):
            await self._command(f"LOGIN {quoted(account.user)} {quoted(account.password)}", shown="LOGIN")
        answer, _ = await self._command("CAPABILITY")
        words = [
            word for line, _ in answer if line.upper().startswith(b"CAPABILITY") for word in line.split()
        ]
        self.capabilities = frozenset(word.decode("ascii", "replace").upper() for word in words)

    async def _command(self, command: str, shown: str = "") -> tuple[Answer, bytes]:
        """Raises ImapError unless the server completes it with OK."""
        return await self._answer(self._send(command), shown or command)

    def _send(self, command: str) -> bytes:
        self._number += 1
        tag = f"s{self._number}"
        self._writer.write(f"{tag} {command}\r\n".encode("ascii"))
        return tag.encode()

    async def _answer(self, tag: bytes, shown: str) -> tuple[Answer, bytes]:
        answer: Answer = []
        for _ in range(LINES_MAX):
            line, literals = await self._line()
            if line.startswith(b"* "):
                answer.append((line[2:], literals))
            elif line.startswith(tag + b" "):
                status = line[len(tag) + 1 :]
                if not status.upper().startswith(b"OK"):
                    raise ImapError(f"{shown[:40]}: {_shown(status)}")
                return answer, status
        raise ImapError(f"{shown[:40]}: an answer has at most {LINES_MAX} lines")

    async def _continuation(self) -> None:
        for _ in range(LINES_MAX):
            line, _ = await self._line()
            if line.startswith(b"+"):
                return
            if not line.startswith(b"* "):
                raise ImapError(f"no continuation: {_shown(line)}")
        raise ImapError(f"no continuation within {LINES_MAX} lines")

    async def _something_new(self, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                for _ in range(LINES_MAX):
                    line, _ = await self._line(timed=False)
                    if line.upper().startswith(b"* BYE"):
                        raise ImapError(f"the server leaves: {_shown(line)}")
                    if line.upper().endswith((b" EXISTS", b" RECENT")):
                        return True
        except TimeoutError:
            return False
        raise ImapError(f"IDLE: more than {LINES_MAX} lines")

    async def _line(self, timed: bool = True) -> tuple[bytes, list[bytes]]:
        """One line with its literals; where a literal stood, the line says `{n}`."""
        try:
            async with asyncio.timeout(self._timeout_s if timed else None):
                return await self._whole_line()
        except TimeoutError:
            if not timed:
                raise
            raise ImapError(f"the server said nothing for {self._timeout_s} s") from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise ImapError(f"the connection ended: {error}") from error

    async def _whole_line(self) -> tuple[bytes, list[bytes]]:
        whole = b""
        literals: list[bytes] = []
        while True:
            part = (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
            whole += part
            found = _LITERAL.search(part)
            if found is None:
                return whole, literals
            if int(found[1]) > max(self._literal_max, 4096) or len(whole) > LINE_BYTES_MAX:
                raise ImapError(f"the server sent {_shown(found[1])} bytes at once, which nobody asked for")
            literals.append(await self._reader.readexactly(int(found[1])))


def quoted(text: str) -> str:
    """A quoted string. Raises ImapError for what needs a literal: nothing here does."""
    if _PLAIN.fullmatch(text) is None:
        raise ImapError("user, password and folder may hold printable ASCII only")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _body(line: bytes, literals: list[bytes]) -> bytes:
    if literals:
        return max(literals, key=len)
    found = _QUOTED_BODY.search(line)  # a server may quote a short one
    return re.sub(rb"\\(.)", rb"\1", found[1]) if found else b""


def _shown(line: bytes) -> str:
    return line[:200].decode("utf-8", "replace")
