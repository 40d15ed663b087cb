"""The demo's post office: the mail server that the shop has its mailbox on, and through which its letters go out.

A real IMAP server and a real SMTP server on loopback, with as much of both protocols as IO.email speaks: in production
they are the provider's. It has checked who sends, and says so in Authentication-Results, as providers do.
Standard library only.
"""

from __future__ import annotations

import queue
import re
import select
import socket
import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import make_msgid
from typing import Any

SHOP, SERVER = "shop@example.com", "mx.example.com"
LETTERS_MAX, LETTER_BYTES_MAX = 100, 1 << 20
NEWS_S = 0.02  # between two looks for new letters while a client idles


class PostOffice:
    """Takes letters for the shop, and keeps what the shop sends."""

    def __init__(self) -> None:
        self.letters: list[bytes] = []
        self.seen: set[int] = set()
        self._sent: queue.Queue[EmailMessage] = queue.Queue(LETTERS_MAX)
        self._imap, self._smtp = _serving(_Imap, self), _serving(_Smtp, self)

    def settings(self) -> dict[str, Any]:
        """IO.email's."""
        places = {
            name: {"host": "127.0.0.1", "port": server.server_address[1], "security": "none"}
            for name, server in (("imap", self._imap), ("smtp", self._smtp))
        }
        return {"mailboxes": [{"address": SHOP, "authserv_id": SERVER, **places}], "reconnect_s": 0.2}

    def close(self) -> None:
        """Stop listening."""
        for server in (self._imap, self._smtp):
            server.shutdown()
            server.server_close()

    def write(self, sender: str, subject: str, text: str) -> None:
        """A letter to the shop arrives."""
        letter = EmailMessage()
        domain = sender.rpartition("@")[2]
        letter["Authentication-Results"] = f"{SERVER}; dmarc=pass header.from={domain}"
        letter["From"], letter["To"], letter["Subject"] = sender, SHOP, subject
        letter["Message-ID"] = make_msgid(domain=domain)
        letter.set_content(text)
        self.letters.append(letter.as_bytes(policy=policy.SMTP))

    def read(self, within_s: float) -> EmailMessage | None:
        """The next letter that the shop sent, None when none comes in time."""
        try:
            return self._sent.get(timeout=within_s)
        except queue.Empty:
            return None

    def keep(self, data: bytes) -> None:
        letter = message_from_bytes(data, policy=policy.default)
        assert isinstance(letter, EmailMessage)
        self._sent.put(letter)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    office: PostOffice


def _serving(handler: type[socketserver.StreamRequestHandler], office: PostOffice) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    server.office = office
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class _Talk(socketserver.StreamRequestHandler):
    """Lines in, lines out."""

    server: _Server
    connection: socket.socket

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def hear(self) -> str:
        """The next line, without its end; empty when the client has gone."""
        return self.rfile.readline(LETTER_BYTES_MAX).decode("utf-8", "replace").rstrip("\r\n")


class _Smtp(_Talk):
    """EHLO, MAIL, RCPT, DATA, QUIT."""

    def handle(self) -> None:
        self.say(f"220 {SERVER}")
        while line := self.hear():
            verb = line[:4].upper()
            if verb == "DATA":
                self.say("354 go on")
                self.server.office.keep(self._letter())
            self.say("221 bye" if verb == "QUIT" else "250 ok")
            if verb == "QUIT":
                return

    def _letter(self) -> bytes:
        lines: list[bytes] = []
        while (line := self.rfile.readline(LETTER_BYTES_MAX)) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return b"".join(lines)


class _Imap(_Talk):
    """One mailbox, whoever logs in."""

    def handle(self) -> None:
        self.say("* OK ready")
        while line := self.hear():
            tag, _, command = line.partition(" ")
            if command == "IDLE":
                self._idle()
            for answer in self._answers(command):
                self.say(answer)
            self.say(f"{tag} OK done")
            if command == "LOGOUT":
                return

    def _answers(self, command: str) -> list[str]:
        office = self.server.office
        if command == "CAPABILITY":
            return ["* CAPABILITY IMAP4rev1 IDLE"]
        if command.startswith("SELECT"):
            return [f"* {len(office.letters)} EXISTS", "* OK [UIDVALIDITY 1]"]
        if command.startswith("UID SEARCH"):
            unseen = [str(uid) for uid in range(1, len(office.letters) + 1) if uid not in office.seen]
            return [" ".join(["* SEARCH", *unseen])]
        if found := re.match(r"UID STORE ([\d,]+) \+FLAGS\.SILENT .*Seen", command):
            office.seen |= {int(uid) for uid in found[1].split(",")}
        if found := re.match(r"UID FETCH (\d+) ", command):
            data = office.letters[int(found[1]) - 1]
            head = f"* {found[1]} FETCH (UID {found[1]} RFC822.SIZE {len(data)} BODY[]<0> {{{len(data)}}}"
            return [f"{head}\r\n{data.decode()})"]
        return []

    def _idle(self) -> None:
        """Tells of new letters until the client says DONE."""
        known = len(self.server.office.letters)
        self.say("+ idling")
        while not select.select([self.connection], [], [], NEWS_S)[0]:
            count = len(self.server.office.letters)
            if count != known:
                self.say(f"* {count} EXISTS")
                known = count
        self.hear()
