"""A mail server of its own for a test: Dovecot for IMAP, aiosmtpd for SMTP, one certificate for both.

What comes in by SMTP for one of its users lands in that user's Maildir, where Dovecot shows it; `arrive` delivers as
the server at the border of an organisation does: it removes Authentication-Results that claim its name and puts its own
above. Both run on loopback and are gone with the test. A test that needs them is skipped, by name, where they are
missing.
"""

from __future__ import annotations

import contextlib
import imaplib
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from skep_nodes.io.mail_place import Place
from support.tools import find, need
from support.wait import eventually

HOST = "127.0.0.1"
AUTHSERV_ID = "mx.hive.test"
PASSWORD = 'pass word "quoted" \'n\\all'
MAIL_USER = "nobody"

CONFIG = """
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <{root}/cert.pem
ssl_key = <{root}/key.pem
ssl_min_protocol = TLSv1.2
mail_location = maildir:{root}/mail/%u
first_valid_uid = 1
auth_mechanisms = plain login
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {root}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={root}/home/%u
}}
"""


def have_mail() -> None:
    """Skips the running test where a part is missing."""
    need("root")
    if find("dovecot") is None and not Path("/usr/sbin/dovecot").exists():
        pytest.skip("needs dovecot: not found; to run this test: apt-get install dovecot-core dovecot-imapd")
    pytest.importorskip(
        "aiosmtpd", reason="needs aiosmtpd: not found; to run this test: pip install aiosmtpd"
    )


@dataclass
class Sent:
    """A letter that came by SMTP."""

    sender: str
    recipients: list[str]
    data: bytes
    tls: bool
    user: str

    @property
    def message(self) -> Message:
        return message_from_bytes(self.data)

    @property
    def text(self) -> str:
        payload = self.message.get_payload(decode=True)
        assert isinstance(payload, bytes)
        return payload.decode().replace("\r\n", "\n").strip()


@dataclass
class MailServer:
    """Users are addresses; each has PASSWORD."""

    root: Path
    imap: Place
    smtp: Place
    sent: list[Sent] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    """What the next letters are answered with instead of 250."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def add_user(self, address: str) -> None:
        """Before the servers run: Dovecot reads its list of users again only when a second has passed."""
        with (self.root / "users").open("a") as users:
            users.write(f"{address}:{{PLAIN.b64}}{_base64(PASSWORD)}\n")
        for part in ("cur", "new", "tmp"):
            folder = self.root / "mail" / address / part
            folder.mkdir(parents=True)
        for path in [self.root / "mail" / address, *(self.root / "mail" / address).iterdir()]:
            shutil.chown(path, MAIL_USER)

    def has(self, address: str) -> bool:
        return (self.root / "mail" / address).is_dir()

    def arrive(self, address: str, data: bytes, results: str = "") -> None:
        """Delivers as the border server: `results` is what it found out about the sender."""
        own = f"Received: from somewhere by {AUTHSERV_ID}; {datetime.now(UTC):%d %b %Y %H:%M:%S} +0000\r\n"
        if results:
            own = f"Authentication-Results: {AUTHSERV_ID};\r\n\t{results}\r\n{own}"
        self.put(address, own.encode() + _without_claims(data))

    def put(self, address: str, data: bytes) -> None:
        """Into the Maildir, as it stands."""
        name = f"{next(self.numbers):06d}.skep.test"
        box = self.root / "mail" / address
        (box / "tmp" / name).write_bytes(data)
        shutil.chown(box / "tmp" / name, MAIL_USER)
        (box / "tmp" / name).rename(box / "new" / name)

    def client(self, address: str) -> imaplib.IMAP4_SSL:
        """The standard library's client, to see what a person sees."""
        client = imaplib.IMAP4_SSL(HOST, self.imap.port, ssl_context=self.imap.tls())
        client.authenticate("PLAIN", lambda _: f"\0{address}\0{PASSWORD}".encode())
        return client

    def flags(self, address: str) -> list[str]:
        """The flags of each letter in the inbox, oldest first."""
        client = self.client(address)
        try:
            client.select("INBOX", readonly=True)
            _, rows = client.fetch("1:*", "(FLAGS)")
            lines = [row.decode() if isinstance(row, bytes) else str(row) for row in rows if row]
            return [
                line.partition("FLAGS (")[2].partition(")")[0].replace("\\Recent", "").strip()
                for line in lines
            ]
        finally:
            client.logout()

    def take(self, sent: Sent) -> str:
        """The SMTP side's answer to one letter."""
        reply = self.replies.pop(0) if self.replies else "250 taken"
        if reply.startswith("250"):
            self.sent.append(sent)
            for each in sent.recipients:
                if self.has(each):
                    self.put(each, sent.data)
        return reply


@contextlib.contextmanager
def mail_server(*addresses: str) -> Iterator[MailServer]:
    """Runs both servers; the addresses are its users."""
    have_mail()
    root = Path(tempfile.mkdtemp(prefix="skm", dir="/tmp"))
    root.chmod(0o755)
    (root / "users").touch()
    certificate(root)
    imap = Place(HOST, _free_port(), "tls", root / "cert.pem")
    smtp = Place(HOST, _free_port(), "starttls", root / "cert.pem")
    server = MailServer(root, imap, smtp)
    for address in addresses:
        server.add_user(address)
    try:
        with _dovecot(root, imap.port), _smtp(server):
            yield server
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _dovecot(root: Path, port: int) -> Iterator[None]:
    user = pwd.getpwnam(MAIL_USER)
    path = root / "dovecot.conf"
    path.write_text(CONFIG.format(root=root, port=port, uid=user.pw_uid, gid=user.pw_gid))
    program = find("dovecot") or "/usr/sbin/dovecot"
    with (root / "out.log").open("wb") as out:
        process = subprocess.Popen([program, "-F", "-c", str(path)], stdout=out, stderr=out)
    try:
        eventually(lambda: _answers(port) or _ended(process, root), within=20, what="dovecot answers")
        yield
    finally:
        process.terminate()
        process.wait(10)


def _ended(process: subprocess.Popen[bytes], root: Path) -> bool:
    if process.poll() is not None:
        logs = [path.read_text(errors="replace") for path in root.glob("*.log")]
        raise RuntimeError("dovecot ended:\n" + "\n".join(logs))
    return False


@contextlib.contextmanager
def _smtp(server: MailServer) -> Iterator[None]:
    from importlib import import_module

    controller_module: Any = import_module("aiosmtpd.controller")
    auth: Any = import_module("aiosmtpd.smtp")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.root / "cert.pem", server.root / "key.pem")

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
        good = getattr(data, "password", b"") == PASSWORD.encode()
        return auth.AuthResult(success=good, handled=False, auth_data=getattr(data, "login", b"").decode())

    class Handler:
        async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
            sent = Sent(
                envelope.mail_from, list(envelope.rcpt_tos), envelope.content, session.ssl is not None,
                session.auth_data or "",
            )  # fmt: skip
            return server.take(sent)

    controller = controller_module.Controller(
        Handler(), HOST, server.smtp.port, tls_context=context, require_starttls=True, auth_required=True,
        authenticator=authenticate,
    )  # fmt: skip
    controller.start()
    try:
        yield
    finally:
        controller.stop()


def certificate(root: Path) -> None:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    (root / "key.pem").write_bytes(pem)
    (root / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))


def _without_claims(data: bytes) -> bytes:
    """RFC 8601 §5: fields that claim this server's name are removed."""
    head, blank, body = data.replace(b"\r\n", b"\n").partition(b"\n\n")
    fields = head.replace(b"\n\t", b" ").replace(b"\n ", b" ").split(b"\n")
    claim = f"authentication-results: {AUTHSERV_ID}".encode()
    kept = [each for each in fields if not b" ".join(each.lower().split()).startswith(claim)]
    return (b"\n".join(kept) + blank + body).replace(b"\n", b"\r\n")


def _base64(text: str) -> str:
    from base64 import b64encode

    return b64encode(text.encode()).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


__all__ = ["AUTHSERV_ID", "PASSWORD", "MailServer", "Sent", "certificate", "have_mail", "mail_server"]
