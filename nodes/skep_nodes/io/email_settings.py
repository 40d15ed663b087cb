"""IO.email's settings and secrets: mailboxes, their servers, and what is believed about senders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skep_nodes.io.mail_head import is_address
from skep_nodes.io.mail_place import IMAP_SECURITY, SMTP_SECURITY, Account, Place
from skep_nodes.io.settings import SettingsError, read_secrets

PROOFS: Final = ("require", "refuse", "off")
SECRETS: Final = ("imap_user", "imap_password", "smtp_user", "smtp_password")
MAILBOXES_MAX: Final = 64  # each has a connection of its own
POLL_S_MIN, RECONNECT_S_MIN = 1.0, 0.05  # a mail server that is asked more often than it likes locks accounts


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One address that people write to."""

    address: str
    imap: Place
    smtp: Place
    authserv_id: str = ""
    """The name under which the receiving server says what it checked; without it no sender is proven."""
    tenant_id: str = ""
    to: str = ""
    """The node that gets its letters where the hive has no identity; empty for the settings' `to`."""
    folder: str = "INBOX"
    name: str = ""
    """Shown beside the address in answers."""


@dataclass(frozen=True, slots=True)
class EmailSettings:
    """IO.email's settings."""

    name: str = "IO.email"
    mailboxes: tuple[Mailbox, ...] = ()
    to: str = "AI.desk"
    """The node that gets every letter whose thread nobody has taken over, where the hive has no identity; where it
    has one, the policy decides."""
    identity: str = "auto"
    """`on`: each letter is sent as the interlocutor that it is from; `off`: by names; `auto`: as the hive has it."""
    threads: str = "v3"
    """`v2` for clients of the system before, which compute thread ids themselves."""
    sender_proof: str = "require"
    """`require`: a letter whose sender is not proven is of the channel kind `email-unproven`, never of a registered
    interlocutor; `refuse`: it is left for a person; `off`: every From is believed (only where the server takes no
    letters from outside)."""
    secrets_file: Path | None = None
    """JSON {address: {imap_user, imap_password, smtp_user, smtp_password}}, mode 0600."""
    poll_s: float = 60.0
    """Seconds between looks where the server does not tell of new letters; how long one IDLE lasts."""
    reconnect_s: float = 5.0
    """Seconds before the first new connection after a lost one; doubling to five minutes."""
    letters_per_sender: int = 20
    """In `rate_window_s`; more are left for a person."""
    unproven_per_sender: int = 5
    rate_window_s: float = 600.0
    answers_per_letter: int = 4
    """Letters that the hive may send in answer to one."""
    send_attempts: int = 12
    """Hand-overs to the mail server; with doubling delays up to an hour about seven hours in all."""
    retry_initial_s: float = 15.0
    send_retries: int = 3
    """Sends into the hive after the first; after that the letter stays unseen and is tried at a later look."""
    unreadable: str = "I can only read text at the moment, and there was none in your message."


def load_accounts(path: Path, settings: EmailSettings) -> dict[str, tuple[Account, Account]]:
    """IMAP's and SMTP's account of each mailbox. Raises SettingsError for one that has none, and for a bad setting."""
    check(settings)
    secrets = read_secrets(path)
    return {box.address: _accounts(path, box, secrets.get(box.address)) for box in settings.mailboxes}


def check(settings: EmailSettings) -> None:
    """Raises SettingsError naming the first wrong setting."""
    if settings.sender_proof not in PROOFS:
        raise SettingsError(f"sender_proof: must be one of {', '.join(PROOFS)}")
    if not 1 <= len(settings.mailboxes) <= MAILBOXES_MAX:
        raise SettingsError(f"mailboxes: one to {MAILBOXES_MAX}, not {len(settings.mailboxes)}")
    if settings.poll_s < POLL_S_MIN or settings.reconnect_s < RECONNECT_S_MIN:
        raise SettingsError(f"poll_s: at least {POLL_S_MIN}, reconnect_s: at least {RECONNECT_S_MIN}")
    addresses = [box.address for box in settings.mailboxes]
    for address in addresses:
        if not is_address(address) or address != address.lower() or addresses.count(address) > 1:
            raise SettingsError(f"mailboxes: {address!r} must be one address in lower case, and listed once")
    for box in settings.mailboxes:
        box.imap.check(IMAP_SECURITY, f"{box.address}.imap")
        box.smtp.check(SMTP_SECURITY, f"{box.address}.smtp")


def _accounts(path: Path, box: Mailbox, given: object) -> tuple[Account, Account]:
    values: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    texts = [values.get(name, "") for name in SECRETS]
    if not all(isinstance(text, str) for text in texts) or not texts[0] or not texts[1]:
        raise SettingsError(f"{path}: {box.address} needs imap_user and imap_password (text)")
    return Account(texts[0], texts[1]), Account(texts[2], texts[3])
