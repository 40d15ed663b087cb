"""One letter to a mail server, by the standard library's client in a thread of its own.

A connection for each letter: answers are few, and a kept connection that died is how letters are sent twice. What comes
of it is nothing (the server has it) or `NotSent`, which says whether trying again can help: what a server says of a
letter or its recipient with 5xx will be the same tomorrow, everything else may pass.
"""

from __future__ import annotations

import smtplib
import ssl
from typing import Final

from skep_nodes.io.mail_head import domain_of
from skep_nodes.io.mail_place import Account, Place

TIMEOUT_S: Final = 20.0  # for each step; servers that check a letter while it waits take some seconds


class NotSent(Exception):
    """The server does not have the letter, or did not say that it has."""

    def __init__(self, detail: str, *, final: bool) -> None:
        super().__init__(detail)
        self.final = final


def hand_over(
    place: Place, account: Account, sender: str, recipient: str, data: bytes, timeout_s: float = TIMEOUT_S
) -> None:
    """Blocks until the server has taken the letter. Raises NotSent."""
    try:
        with _connected(place, domain_of(sender), timeout_s) as smtp:
            if account.user:
                smtp.login(account.user, account.password)
            smtp.sendmail(sender, [recipient], data)
    except smtplib.SMTPRecipientsRefused as error:
        code, reply = next(iter(error.recipients.values()))
        raise NotSent(f"recipient refused: {code} {_text(reply)}", final=code >= 500) from error
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        final = error.smtp_code >= 500
        raise NotSent(f"refused: {error.smtp_code} {_text(error.smtp_error)}", final=final) from error
    except (
        smtplib.SMTPResponseException
    ) as error:  # at the greeting or the login: nothing was said of the letter
        raise NotSent(f"refused: {error.smtp_code} {_text(error.smtp_error)}", final=False) from error
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise NotSent(f"{place.host}:{place.port}: {error}", final=False) from error


def _connected(place: Place, own_name: str, timeout_s: float) -> smtplib.SMTP:
    if place.security == "tls":
        return smtplib.SMTP_SSL(place.host, place.port, own_name, timeout=timeout_s, context=place.tls())
    smtp = smtplib.SMTP(place.host, place.port, own_name, timeout=timeout_s)
    try:
        if place.security == "starttls":
            smtp.starttls(
                context=place.tls()
            )  # raises where the server does not offer it: no plain text instead
    except (OSError, ssl.SSLError, smtplib.SMTPException):
        smtp.close()
        raise
    return smtp


def _text(reply: object) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return text[:200]
