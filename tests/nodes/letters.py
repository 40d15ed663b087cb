"""Letters as people, machines and attackers write them."""

from __future__ import annotations

from support.mail_server import AUTHSERV_ID

DESK = "desk@hive.test"
ANA = "ana@customer.example"
PROVEN = "dmarc=pass header.from=customer.example"


def letter(
    text: str = "How long does delivery take?",
    *more: str,
    sender: str = f"Ana <{ANA}>",
    subject: str = "Delivery",
    message_id: str = "m1@customer.example",
    references: str = "",
) -> bytes:
    """A plain letter; `more` are further fields."""
    fields = [
        f"From: {sender}",
        f"To: {DESK}",
        f"Subject: {subject}",
        "Date: Wed, 25 Nov 2026 09:00:00 +0000",
    ]
    if message_id:
        fields.append(f"Message-ID: <{message_id}>")
    if references:
        fields += [f"In-Reply-To: <{references.split()[-1]}>"]
        fields += ["References: " + " ".join(f"<{each}>" for each in references.split())]
    fields += [*more, "Content-Type: text/plain; charset=utf-8"]
    return ("\r\n".join(fields) + "\r\n\r\n" + text + "\r\n").encode()


def proven(data: bytes, results: str = PROVEN) -> bytes:
    """The letter as the border server hands it on."""
    return f"Authentication-Results: {AUTHSERV_ID}; {results}\r\n".encode() + data


def multipart(*parts: str, kind: str = "mixed", boundary: str = "b", more: str = "") -> bytes:
    """A letter of several parts, each with its own head."""
    body = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts) + f"--{boundary}--\r\n"
    head = f"From: {ANA}\r\nSubject: parts\r\nMessage-ID: <p@x.example>\r\n"
    head += f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n'
    return (head + more + "\r\n" + body).encode("utf-8", "surrogateescape")
